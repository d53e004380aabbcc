"""A rig of workers in this process, ended after each test with its threads and sockets."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.rig import Loop, Rig, until


@pytest.fixture(autouse=True, scope="session")
def _one_thread_each() -> Iterator[None]:
    """Several device threads share the machine; each computes with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("device", "hop"))]


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def rig(loop: Loop) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="fb-") as sockets:  # a socket's path is short
        rig = Rig(Path(sockets), loop)
        yield rig
        rig.close()
        until(lambda: not ours(), "all threads ended")
        assert not list(Path(sockets).iterdir())
