"""Told to end while it starts, a container's first process does, and does not stay for all of its grace period."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from testbed.cluster import Cluster

PROGRAMS = {
    "gateway": ("forebay_gateway",),
    "operator": ("forebay_operator", "--cluster"),
    "worker": ("forebay_worker", "serve", "--count", "1"),
}
INTERPRETER = 0.5
"""Seconds until Python itself has started, on a busy machine; only from then on anything of ours can hear."""
SOON = 10.0


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_ends(bed: Cluster, program: str, tmp_path: Path) -> None:
    first = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", *PROGRAMS[program])
    state = {"FOREBAY_STATE": str(tmp_path), "FOREBAY_OPERATOR": "127.0.0.1:9", "FOREBAY_PORT": "0"}
    named = {"POD_NAME": "p", "POD_NAMESPACE": "n", "FOREBAY_RELEASE": "forebay"}
    with subprocess.Popen(first, env={**os.environ, **state, **named}) as outer:
        try:
            child = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            end = time.monotonic() + SOON
            while not (found := child.read_text().split()) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(INTERPRETER)
            os.kill(int(found[0]), signal.SIGTERM)
            assert outer.wait(SOON) in (0, 128 + signal.SIGTERM)
        finally:
            outer.kill()
