"""What `forebay get` prints: the rows that `kubectl get` would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forebay_api.quantities import format_size

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """``wide`` columns are shown with ``-o wide`` only."""

    title: str
    text: Callable[[Item], object]
    wide: bool = False


def _held(worker: Item) -> str:
    return ", ".join(f"{backbone}: {_ranges(units)}" for backbone, units in sorted(worker["holds"].items()) if units)


def _link(worker: Item) -> str:
    """Nobody knows how fast one is that has loaded nothing."""
    rate: int = worker["linkBytesPerSecond"]
    return f"{format_size(rate)}/s" if rate else "-"


def _stages(pipeline: Item) -> str:
    return " ▸ ".join(f"{stage['worker']} {stage['first']}-{stage['last']}" for stage in pipeline["stages"])


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "functions": (
        Column("NAMESPACE", lambda f: f["namespace"]),
        Column("NAME", lambda f: f["name"]),
        Column("URL", lambda f: f["url"]),
        Column("MODEL", lambda f: f["uri"]),
        Column("STATE", lambda f: f["state"]),
        Column("READY", lambda f: f["ready"]),
        Column("DESIRED", lambda f: f["desired"]),
        Column("REASON", lambda f: f["reason"]),
        Column("SERVED AS", lambda f: f["model"], wide=True),
        Column("WAITING", lambda f: f["waiting"], wide=True),
        Column("IN FLIGHT", lambda f: f["inFlight"], wide=True),
        Column("BACKBONE", lambda f: f["backbone"], wide=True),
        Column("MESSAGE", lambda f: f["message"], wide=True),
    ),
    "workers": (
        Column("NAME", lambda w: w["name"]),
        Column("PID", lambda w: w["pid"]),
        Column("DEVICE", lambda w: w["device"]),
        Column("STATE", lambda w: w["state"]),
        Column("RESIDENT", lambda w: format_size(w["residentBytes"])),
        Column("READ", lambda w: format_size(w["bytesRead"])),
        Column("HOLDS", _held),
        Column("KV", lambda w: format_size(w["kvReservedBytes"]), wide=True),
        Column("BUDGET", lambda w: format_size(w["memoryBytes"]), wide=True),
        Column("LINK", _link, wide=True),
        Column("NODE", lambda w: w["node"], wide=True),
        Column("POOL", lambda w: w["pool"], wide=True),
        Column("PROCESS", lambda w: format_size(w["processBytes"]), wide=True),
        Column("METRICS", lambda w: w["metricsUrl"], wide=True),
    ),
    "pipelines": (
        Column("EPOCH", lambda p: p["epoch"]),
        Column("BACKBONE", lambda p: p["backbone"]),
        Column("PHASE", lambda p: p["phase"]),
        Column("STAGES", _stages),
        Column("RUNNING", lambda p: p["running"]),
        Column("WAITING", lambda p: p["waiting"]),
        Column("KV FREE", lambda p: f"{p['kvBlocksFree']}/{p['kvBlocks']}", wide=True),
    ),
}


def table(kind: str, items: list[Item], *, wide: bool) -> str:
    """One row an item of ``kind`` (functions, workers or pipelines)."""
    columns = [column for column in COLUMNS[kind] if wide or not column.wide]
    return aligned(
        [column.title for column in columns], [[str(column.text(item)) for column in columns] for item in items]
    )


def aligned(titles: list[str], rows: list[list[str]]) -> str:
    """Columns three spaces apart and as wide as need be: lines are for `grep` and `awk` too, so none is folded."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [titles, *rows]
    )
    return "\n".join(line.rstrip() for line in lines)
