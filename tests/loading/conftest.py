"""What loading tests share: a watched loader, and small checkpoints that a test may damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay_worker.load.checkpoint import Checkpoint, open_checkpoint
from forebay_worker.load.link import Link
from loading.watched import Watched


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """``watch(memory_bytes, link)`` starts a loader; all are closed at the end."""
    started: list[Watched] = []

    def start(memory_bytes: int = 1 << 30, link: Link | None = None) -> Watched:
        started.append(Watched(memory_bytes, link))
        return started[-1]

    yield start
    for watched in started:
        watched.loader.close()


@pytest.fixture
def copy(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``copy(family)`` is a tiny checkpoint of one's own."""
    return lambda family: Path(shutil.copytree(tiny(family), tmp_path / family))


@pytest.fixture
def opened(tiny: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    return lambda family: open_checkpoint(tiny(family).as_uri())
