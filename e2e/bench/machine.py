"""What every table says of itself: commit, machine, command; and the rest from which a measurement begins."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local.system import System

ROOT = Path(__file__).resolve().parents[2]


def heading(question: str) -> str:
    """Three lines above a table."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    script = Path(sys.argv[0]).resolve()
    package = script.name == "__main__.py"
    program = ["-m", script.parent.name] if package else [str(script.relative_to(ROOT))]
    command = "PYTHONPATH=e2e " * package + shlex.join([".venv/bin/python", *program, *sys.argv[1:]])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return (
        f"### {question}\n\n"
        f"commit {commit} · {_processor()}, {cores} cores, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}\n"
        f"`{command}`\n"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, columns aligned for people who read it in a terminal."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


async def at_rest(system: System, models: Sequence[Path], workers: int) -> None:
    """All is prepared and measured, as it was for long before anybody asked."""
    await system.ready(workers, len(models))
    await system.until(
        lambda seen: len(seen["models"]) == len(models) and measured(seen),
        "the compute of all models is measured",
    )
    for model in models:
        keep_near(model)


def measured(seen: Mapping[str, Any]) -> bool:
    """What the planner predicts with is known of every model."""
    return all(model["layerSeconds"] for model in seen["models"])


def keep_near(model: Path) -> None:
    """Bring the files into the page cache, from which some machines take what has been idle for a while: the emulated
    link is to be what limits, not the disk."""
    for path in model.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
