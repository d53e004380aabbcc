"""The end of what runs in a pod: by SIGKILL, or by the kernel when its memory is short; or its standing still. Its
containers live in this machine's process namespace: no API call is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from cluster.kube import Body


def kill(pod: Body) -> None:
    """End all processes of the pod's containers at once, as the kernel does when memory is short; the pod stays."""
    _signal(pod, signal.SIGKILL)


def halt(pod: Body) -> None:
    """All processes of the pod's containers stand still, with their connections open."""
    _signal(pod, signal.SIGSTOP)


def _signal(pod: Body, number: signal.Signals) -> None:
    found = processes(pod)
    assert found, f"nothing runs in {pod['metadata']['name']}"
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def processes(pod: Body) -> list[int]:
    """Those in control groups of the pod, without the one that holds its namespaces."""
    group, found = f"pod{pod['metadata']['uid']}/", []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if group in (folder / "cgroup").read_text() and (folder / "comm").read_text().strip() != "pause":
                found.append(int(folder.name))
    return sorted(found)


def starve(pod: Body) -> int:
    """Fill the memory that the pod's container may have, until the kernel ends its largest process, which is returned.

    Who fills it is put into the container's control group from here. It takes a file that lies in memory: that counts
    against the limit, and makes no process large."""
    victim = max(processes(pod), key=_resident)
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{victim}/cgroup").read_text().splitlines())
    version_1 = Path("/sys/fs/cgroup/memory")
    group = version_1 / groups["memory"].lstrip("/") if "memory" in groups else Path("/sys/fs/cgroup", groups[""][1:])
    counts = group / ("memory.oom_control" if version_1 in group.parents else "memory.events")
    before = _killed(counts)
    subprocess.run([sys.executable, "-c", EATER, str(group), str(victim), str(MOST_MIB)], check=True, timeout=60)
    assert not counts.exists() or _killed(counts) > before, f"{victim} ended of something else"
    return victim


def _killed(counts: Path) -> int:
    """How many the kernel has ended in a control group, as it says itself."""
    said = dict(line.split() for line in counts.read_text().splitlines())
    return int(said["oom_kill"])


MOST_MIB = 8192
"""More than any limit here; reaching it is a failure."""
EATER = """
import os, pathlib, sys
group, victim, most = sys.argv[1:]
pathlib.Path(group, "cgroup.procs").write_text(str(os.getpid()))

def lives():
    try:
        return ") Z" not in pathlib.Path("/proc", victim, "stat").read_text()
    except OSError:
        return False

held, chunk, taken = os.memfd_create("held"), bytes(1 << 20), 0
while lives():
    if taken > int(most):
        sys.exit(f"{most} MiB taken, and {victim} lives")
    taken += os.write(held, chunk) >> 20
"""


def _resident(process: int) -> int:
    """Pages that are in memory; 0 of one that is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0
