"""Told to end while it starts, a container's first process does, and does not stay for all of its grace period."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from testbed.cluster import Cluster

from local.system import wait_for

PROGRAMS = {
    "gateway": ("forebay_gateway",),
    "operator": ("forebay_operator", "--cluster"),
    "worker": ("forebay_worker", "serve", "--count", "1"),
}
INTERPRETER = 0.4
"""Seconds of computing in which Python itself starts; what we import takes longer, and then it is to hear already."""
SOON = 10.0


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_ends(bed: Cluster, program: str, tmp_path: Path) -> None:
    first = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", *PROGRAMS[program])
    state = {"FOREBAY_STATE": str(tmp_path), "FOREBAY_OPERATOR": "127.0.0.1:9", "FOREBAY_PORT": "0"}
    named = {"POD_NAME": "p", "POD_NAMESPACE": "n", "FOREBAY_RELEASE": "forebay"}
    with subprocess.Popen(first, env={**os.environ, **state, **named}) as outer:
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            wait_for(children.read_text, "it begins", SOON)
            child = psutil.Process(int(children.read_text()))
            wait_for(lambda: hears(child), "it hears", SOON)
            spent = child.cpu_times()
            child.send_signal(signal.SIGTERM)
            assert spent.user + spent.system < INTERPRETER
            assert outer.wait(SOON) in (0, 128 + signal.SIGTERM)
        finally:
            outer.kill()


def hears(process: psutil.Process) -> bool:
    """Whether it has said what SIGTERM does. Before, a container's first process does not even die of it."""
    caught = Path(f"/proc/{process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
