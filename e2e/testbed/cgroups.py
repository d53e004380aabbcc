"""A control group of its own for each node: a kubelet tidies away every group below its root that it does not know."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


WEIGHT = 4
"""Times that of any other group: what else runs on the machine may slow a node down, and not starve it."""


def make(name: str) -> None:
    """The group ``name`` in the unified hierarchy or in every one of version 1."""
    for hierarchy in _hierarchies():
        group = hierarchy / name
        inherit = hierarchy / "cgroup.clone_children"
        if inherit.exists():
            inherit.write_text("1")  # cpuset: a new group has its parent's processors and memory, or it cannot be used
        group.mkdir(exist_ok=True)
        controllers = group / "cgroup.controllers"
        if controllers.exists():
            enabled = " ".join(f"+{controller}" for controller in controllers.read_text().split())
            (group / "cgroup.subtree_control").write_text(enabled)
        for setting, value in (("cpu.shares", 1024 * WEIGHT), ("cpu.weight", 100 * WEIGHT)):
            if (group / setting).exists():
                (group / setting).write_text(str(value))


def enter(name: str, pids: Iterable[int]) -> None:
    """Move processes into the group ``name``; those that are gone already are left out."""
    for hierarchy in _hierarchies():
        group = hierarchy / name
        if (group / "cgroup.controllers").exists():  # what hands controllers down may hold no processes itself
            group = group / "processes"
            group.mkdir(exist_ok=True)
        for pid in pids:
            with suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))


def confine(name: str, cores: Sequence[int]) -> None:
    """Keep what is in the group ``name`` on ``cores``, once the kubelet has made its groups there: in version 1 it
    gives them all cores itself, and a group may not have more than the one above it."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        below = [path.parent for path in top.rglob("cpuset.cpus") if path.parent != top]
        version_1 = sorted(below, key=lambda path: len(path.parts), reverse=True)
        for group in [top] if (top / "cpu.weight").exists() else version_1:
            (group / "cpuset.cpus").write_text(",".join(map(str, cores)))


def remove(name: str) -> None:
    """The group ``name`` and all below it; what cannot be removed is said on stderr."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        groups = [top, *(path for path in top.rglob("*") if path.is_dir())] if top.exists() else []
        for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
            try:
                group.rmdir()
            except OSError as error:
                print(f"{group} stays: {error}", file=sys.stderr)


def processes(name: str) -> set[int]:
    """The processes in the group ``name`` and below."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for path in (hierarchy / name).rglob("cgroup.procs"):
            with suppress(OSError):
                found.update(map(int, path.read_text().split()))
    return found


def _hierarchies() -> Iterator[Path]:
    if (ROOT / "cgroup.controllers").exists():
        yield ROOT
        return
    for path in ROOT.iterdir():
        if (path / "cgroup.procs").exists() and path.name != "unified" and not path.is_symlink():
            yield path
