"""However it ends, nothing is left: no process, no socket file."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from local.system import PATIENCE, System, function, running, wait_for, write


@pytest.fixture
def file(tmp_path: Path, tiny: object) -> Path:
    return write(tmp_path / "functions.yaml", function("tiny", tiny("llama")))  # type: ignore[operator]


def sockets(system: System) -> list[Path]:
    return [path for path in system.state.folder.rglob("*") if path.is_socket()]


async def ends(system: System, number: signal.Signals) -> None:
    """It does so by itself, at this signal, and nothing is left."""
    await system.ready(2)
    processes = system.children()
    assert len(processes) >= 4, "up, zygote and two workers"
    assert sockets(system)
    assert system.stop("up", number) == 0
    wait_for(lambda: not [each for each in processes if each.is_running()], "every process has ended")
    assert sockets(system) == []
    assert sorted(path.name for path in system.state.folder.glob("*.json")) == []


async def test_a_signal_ends_everything(tmp_path: Path, file: Path) -> None:
    with running(tmp_path / "state", [file], workers=2) as system:
        await ends(system, signal.SIGINT)


async def test_workers_end_when_up_is_killed(tmp_path: Path, file: Path) -> None:
    with running(tmp_path / "state", [file], workers=2) as system:
        await system.ready(2)
        processes = system.children()
        system.stop("up", signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
        assert alive == []
    # What was left behind does not hinder the next start, nor its end.
    with running(tmp_path / "state", [file], workers=2) as system:
        await ends(system, signal.SIGTERM)
