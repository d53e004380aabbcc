"""The zygote as a parent: its workers come back when they die, and never outlive it. Workers here do nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from forebay_worker.zygote import CRASHES_AT_ONCE, LONGEST_DELAY

SECONDS = 20.0
Start = Callable[..., subprocess.Popen[str]]


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def begin(behaviour: str, *flags: str, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("bare_zygote.py"))
        command = [*under, sys.executable, program, str(tmp_path), behaviour, *flags]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def workers(folder: Path) -> list[int]:
    """Pids of all that ever began."""
    return [int(path.name.split(".")[1]) for path in folder.glob("w*.*")]


def ended(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_workers_end_with_a_killed_zygote(start: Start, tmp_path: Path) -> None:
    zygote = start("stubborn", "--count", "3")
    eventually(lambda: len(workers(tmp_path)) == 3)
    zygote.kill()
    zygote.wait()
    eventually(lambda: ended(workers(tmp_path)))


def test_a_killed_worker_comes_back_under_its_name(start: Start, tmp_path: Path) -> None:
    start("sleep")
    [first] = eventually(lambda: workers(tmp_path))
    os.kill(first, signal.SIGKILL)
    assert len(eventually(lambda: len(workers(tmp_path)) == 2 and workers(tmp_path))) == 2


def test_sigterm_at_birth_is_the_workers_own(start: Start, tmp_path: Path) -> None:
    zygote = start("newborn")
    assert zygote.stderr
    lines = (json.loads(line) for line in zygote.stderr)
    died = next(line for line in lines if line["event"] in ("worker.died", "zygote.stopping"))
    assert (died["event"], died.get("status")) == ("worker.died", -signal.SIGTERM)
    eventually(lambda: workers(tmp_path))
    zygote.terminate()
    assert zygote.wait(SECONDS) == 0


def test_a_worker_that_was_killed_while_it_computed_leaves_the_cores(start: Start, tmp_path: Path) -> None:
    start("compute", "--count", "2")
    seen = tmp_path / "neighbours"
    eventually(lambda: seen.exists() and seen.read_text() == "1")
    [first] = tmp_path.glob("w0.*")
    os.kill(int(first.suffix[1:]), signal.SIGKILL)
    eventually(lambda: seen.read_text() == "0")


def test_sigterm_ends_workers_that_do_not_listen_and_removes_their_sockets(start: Start, tmp_path: Path) -> None:
    zygote = start("stubborn", "--count", "2")
    eventually(lambda: len(workers(tmp_path)) == 2)
    assert len(list((tmp_path / "sockets").iterdir())) == 4
    zygote.send_signal(signal.SIGTERM)
    assert zygote.wait(SECONDS) == 0
    assert ended(workers(tmp_path))
    assert not list((tmp_path / "sockets").iterdir())


def test_ctrl_c_stops_a_zygote_alone_but_is_left_to_a_parent_that_is_in_charge(start: Start, tmp_path: Path) -> None:
    zygote = start("sleep", "--die-with-parent", str(os.getpid()))
    [worker] = eventually(lambda: workers(tmp_path))
    for pid in (zygote.pid, worker):
        os.kill(pid, signal.SIGINT)
    zygote.send_signal(signal.SIGTERM)
    assert zygote.wait(SECONDS) == 0
    assert workers(tmp_path) == [worker]  # it had not died and come back
    (tmp_path / "sockets").rmdir()
    alone = start("sleep")
    eventually(lambda: len(workers(tmp_path)) == 2)
    alone.send_signal(signal.SIGINT)
    assert alone.wait(SECONDS) == 0
    assert ended(workers(tmp_path))


def test_a_crash_loop_slows_down(start: Start, tmp_path: Path) -> None:
    zygote = start("crash")
    assert zygote.stderr
    deaths = []
    while len(deaths) < CRASHES_AT_ONCE + 2:
        line = json.loads(zygote.stderr.readline())
        if line["event"] == "worker.died":
            deaths.append(line)
    assert [death["status"] for death in deaths] == [3] * len(deaths)
    delays = [death["again_in"] for death in deaths]
    assert delays[:CRASHES_AT_ONCE] == [0] * CRASHES_AT_ONCE
    assert 0 < delays[-2] < delays[-1] <= LONGEST_DELAY
    zygote.terminate()
    assert zygote.wait(SECONDS) == 0  # also while it waits to fork again


def test_a_zygote_ends_with_its_parent_when_asked(start: Start, tmp_path: Path) -> None:
    """The parent is a process that starts the zygote and waits to be killed."""
    program = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    parent = start("sleep", "--die-with-parent", under=(sys.executable, "-c", program))
    eventually(lambda: workers(tmp_path))
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == 2
    parent.kill()
    parent.wait()
    eventually(lambda: ended([process.pid for process in family]))
    assert not list((tmp_path / "sockets").iterdir())


def test_a_zygote_whose_parent_has_gone_does_not_begin(start: Start, tmp_path: Path) -> None:
    zygote = start("sleep", "--die-with-parent", "1")
    assert zygote.wait(SECONDS) == 0
    assert not (tmp_path / "sockets").exists()
