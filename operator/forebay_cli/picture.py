"""A cold start as a picture; the only module that imports matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forebay_cli.coldstart import ColdStart

mpl.use("Agg")

_INK = "#1f2933"
_FAINT = "#7b8794"
_SEGMENTS = ("#2f6f9f", "#d9822b", "#3d8f5f", "#8a5fb0", "#b0413e", "#4c9a9a", "#a68a2d", "#6b7280")
_MARKS = (
    ("servableAt", "servable", _FAINT, "--"),
    ("firstTokenAt", "first token", "#c0262d", "-"),
    ("consolidatedAt", "consolidated", _FAINT, ":"),
)


def draw(start: ColdStart, path: Path) -> None:
    """Each worker a row, each unit a bar in the colour of the segment it belongs to, the first token a line."""
    workers = sorted({unit["worker"] for unit in start["units"]})
    figure = Figure(figsize=(11, 1.9 + 0.62 * max(1, len(workers))), layout="constrained")
    axes = figure.add_subplot()
    _bars(axes, start, workers)
    _lines(axes, start)
    axes.set_yticks(range(len(workers)), workers)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the request came in", color=_INK)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    figure.suptitle(_title(start), x=0.01, ha="left", color=_INK, fontsize=12)
    figure.savefig(path, dpi=140)


def _bars(axes: Axes, start: ColdStart, workers: list[str]) -> None:
    segment_of = {
        unit: number
        for number, stage in enumerate(start["stages"])
        for unit in range(stage["first"], stage["last"] + 1)
    }
    for unit in start["units"]:
        if unit["askedAt"] is None or unit["landedAt"] is None:
            continue
        row, left = workers.index(unit["worker"]), unit["askedAt"] - start["queuedAt"]
        width = unit["landedAt"] - unit["askedAt"]
        colour = _SEGMENTS[segment_of.get(unit["unit"], 0) % len(_SEGMENTS)]
        axes.barh(row, width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.6)
    for number, stage in enumerate(start["stages"]):
        label = f"units {stage['first']}–{stage['last']}"
        axes.barh(0, 0, color=_SEGMENTS[number % len(_SEGMENTS)], label=label)


def _lines(axes: Axes, start: ColdStart) -> None:
    for key, label, colour, style in _MARKS:
        if start.get(key) is not None:
            at = start[key] - start["queuedAt"]
            axes.axvline(at, color=colour, linestyle=style, linewidth=1.8, label=f"{label} {at:.2f} s")
    predicted = start.get("predicted")
    if predicted and start.get("firstByteAt") is not None:
        at = start["firstByteAt"] + predicted["firstToken"] - start["queuedAt"]
        axes.axvline(
            at, color="#e8a0a0", linestyle="-", linewidth=1.2, label=f"predicted first token {at:.2f} s", zorder=0
        )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, frameon=False, fontsize=9, labelcolor=_INK)


def _title(start: ColdStart) -> str:
    stages = len(start["stages"])
    how = f"{stages} workers as a pipeline" if stages > 1 else "one worker"
    return f"Cold start of {start['namespace']}/{start['name']}: {how}, epoch {start['epoch']}"
