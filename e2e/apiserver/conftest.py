"""Tests against a real kube-apiserver without nodes. Each skip names what is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from testbed.programs import programs  # noqa: E402  # the path to it is made above

if programs().is_dir():  # what `make testbed` built
    os.environ.setdefault("FOREBAY_TESTBED_BIN", str(programs()))

import plane  # noqa: E402  # looks where that is
from operators import provided  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault: breaks something; `make e2e-faults`")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[plane.Plane]:
    """With what the chart gives the operator."""
    with plane.running(tmp_path_factory.mktemp("plane")) as found:
        provided(found)
        yield found
