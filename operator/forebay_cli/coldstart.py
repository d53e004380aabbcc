"""The last cold start of a function: its phases in words, as a Chrome/Perfetto trace and as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ColdStart = dict[str, Any]
"""One of the view's ``coldStarts``: unix seconds, ``None`` for what has not happened yet."""

PHASES = (
    ("queued ▸ planned", "queuedAt", "plannedAt"),
    ("planned ▸ first byte", "plannedAt", "firstByteAt"),
    ("first byte ▸ servable", "firstByteAt", "servableAt"),
    ("first byte ▸ first token", "firstByteAt", "firstTokenAt"),
    ("queued ▸ first token", "queuedAt", "firstTokenAt"),
    ("queued ▸ consolidated", "queuedAt", "consolidatedAt"),
)


class NoColdStart(Exception):
    """Nothing to show yet."""


def pick(cold_starts: list[ColdStart], function: str | None) -> ColdStart:
    """The last cold start, of ``function`` (name or namespace/name) when given. Raises NoColdStart."""
    for start in cold_starts:
        if function is None or function in (start["name"], f"{start['namespace']}/{start['name']}"):
            return start
    whose = f"{function} has" if function else "no function has"
    raise NoColdStart(f"{whose} had no cold start since the operator began: send it a request while it is at zero")


def phases(start: ColdStart) -> list[tuple[str, float | None]]:
    """(phase, seconds) with ``None`` where an end is missing."""
    return [
        (name, None if start.get(first) is None or start.get(last) is None else start[last] - start[first])
        for name, first, last in PHASES
    ]


def trace(start: ColdStart) -> dict[str, object]:
    """Chrome trace event format: one thread a worker, one slice a unit, instants for what the caller sees."""
    origin = float(start["queuedAt"])

    def microseconds(at: float) -> int:
        return round((at - origin) * 1e6)

    workers = sorted({unit["worker"] for unit in start["units"]})
    threads = {worker: number for number, worker in enumerate(workers, start=1)}
    name = f"{start['namespace']}/{start['name']}"
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"cold start of {name}, epoch {start['epoch']}"}}
    ]
    events += [
        {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": worker}}
        for worker, number in threads.items()
    ]
    events += [
        {
            "ph": "X",
            "pid": 1,
            "tid": threads[unit["worker"]],
            "name": f"unit {unit['unit']} ({unit['kind']})",
            "cat": "load",
            "ts": microseconds(unit["askedAt"]),
            "dur": max(1, microseconds(unit["landedAt"]) - microseconds(unit["askedAt"])),
            "args": {"bytes": unit["bytes"]},
        }
        for unit in start["units"]
        if unit["askedAt"] is not None and unit["landedAt"] is not None
    ]
    events += [
        {"ph": "i", "s": "g", "pid": 1, "tid": 0, "name": label, "ts": microseconds(start[key])}
        for key, label in _MARKS
        if start.get(key) is not None
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


_MARKS = (
    ("queuedAt", "queued"),
    ("plannedAt", "planned"),
    ("servableAt", "servable"),
    ("firstTokenAt", "first token"),
    ("consolidatedAt", "consolidated"),
)


def write(start: ColdStart, path: Path) -> None:
    """The trace where ``path`` ends with .json, else the picture. Raises OSError, and what ``draw`` does."""
    if path.suffix == ".json":
        path.write_text(json.dumps(trace(start)))
    else:
        draw(start, path)


def draw(start: ColdStart, path: Path) -> None:
    """The picture: each worker a row, each unit a bar, the first token a line. PNG, or what ``path`` ends with.

    Raises ModuleNotFoundError where matplotlib is not installed.
    """
    from forebay_cli import picture

    picture.draw(start, path)
