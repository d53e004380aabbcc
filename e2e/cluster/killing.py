"""SIGKILL to what runs in a pod. Its containers live in this machine's process namespace: no API call is needed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from cluster.kube import Body


def kill(pod: Body) -> None:
    """End all processes of the pod's containers at once, as the kernel does when memory is short; the pod stays."""
    found = processes(pod)
    assert found, f"nothing runs in {pod['metadata']['name']}"
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def processes(pod: Body) -> list[int]:
    """Those in control groups of the pod, without the one that holds its namespaces."""
    group, found = f"pod{pod['metadata']['uid']}/", []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if group in (folder / "cgroup").read_text() and (folder / "comm").read_text().strip() != "pause":
                found.append(int(folder.name))
    return sorted(found)
