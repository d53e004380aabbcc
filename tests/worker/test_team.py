"""One OpenMP team in a worker: a second one makes every operation of every step sleep."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The device's team first, then an operation of the same size on another thread; prints how many OS threads that added.
SCRIPT = """
import os, sys, threading
import torch
from forebay_worker.team import compute_alone

def operate():
    torch.zeros(1_000_000, dtype=torch.uint8)[torch.arange(1_000_000)]

def other():
    global added
    if sys.argv[1] == "alone":
        compute_alone()
    before = len(os.listdir("/proc/self/task"))
    operate()
    added = len(os.listdir("/proc/self/task")) - before

torch.set_num_threads(2)
operate()
thread = threading.Thread(target=other)
thread.start()
thread.join()
print(added, torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(("how", "added"), [("alone", 0), ("teamed", 1)])
def test_a_thread_that_computes_alone_starts_no_team(how: str, added: int) -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout.split() == [str(added), "2"]


def test_an_operation_is_for_one_thread_while_units_land() -> None:
    script = "\n".join((
        "import torch; from forebay_worker.team import Team",
        "team, seen = Team(2), []",
        "for loading in (False, True, True, False):",
        "    team.fit(loading=loading); seen.append(torch.get_num_threads())",
        "print(seen)",
    ))  # fmt: skip
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "[2, 1, 1, 2]"
