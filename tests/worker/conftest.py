"""One system of two workers for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay_wire.v1 import model_pb2
from worker.system import System


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("shared")) as system:
        yield system


@pytest.fixture
def system(shared: System) -> Iterator[System]:
    """The shared one; whatever a test leaves on it is taken off again."""
    yield shared
    shared.clear()


@pytest.fixture(scope="session")
def model(shared: System, tiny: Callable[[str], Path]) -> model_pb2.Model:
    """A tiny Llama, inspected."""
    return shared.inspect(tiny("llama")).model
