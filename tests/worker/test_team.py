"""One OpenMP team in a worker: a second one makes every operation of every step sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forebay_worker import __main__
from forebay_worker.cores import Cores

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


FITTING = """
import os, sys
import torch
from forebay_worker.cores import Cores
from forebay_worker.team import Team

cores = Cores(3)
team, neighbour, seen = Team(2, cores.share(0)), cores.share(2), []

def fit(copying=False):
    team.fit(copying=copying)
    seen.append(torch.get_num_threads())

for copying in (False, True, True, False):
    fit(copying)
child = os.fork()  # as a neighbour is: another process
if not child:
    neighbour.work()
    os._exit(0)
os.waitpid(child, 0)
fit()
cores.died(2)
fit()
seen.append(cores.share(1).busy_neighbours)
team.rest()
seen.append(cores.share(1).busy_neighbours)
print(seen)
"""


def test_an_operation_is_for_fewer_threads_while_the_loader_copies_or_a_neighbour_computes() -> None:
    said = subprocess.run([sys.executable, "-c", FITTING], check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == "[2, 1, 1, 2, 1, 2, 1, 0]"


def test_neighbours_are_those_on_the_same_cores() -> None:
    apart, together = Cores(4, sets=2), Cores(4)
    for cores in (apart, together):
        for worker in (1, 2):
            cores.share(worker).work()
    assert [apart.share(0).busy_neighbours, together.share(0).busy_neighbours] == [1, 2]
    resting = together.share(3)
    resting.work()
    resting.rest()
    assert together.share(0).busy_neighbours == 2


@pytest.mark.parametrize(
    ("flags", "spins"),
    [
        (["--count", "1", "--die-with-parent"], "1000000"),
        (["--count", "2", "--die-with-parent"], "100000"),
        (["--count", "1"], "100000"),
    ],
    ids=["up with one", "up with two", "a pod"],
)
def test_only_a_worker_without_neighbours_spins_long(
    flags: list[str], spins: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(__main__, "_serve", lambda config: 0)
    given = ["serve", "--operator", f"unix:{tmp_path}/operator.sock", "--state", str(tmp_path), *flags]
    assert __main__.main(given) == 0
    assert os.environ["GOMP_SPINCOUNT"] == spins
