"""Tests against a real kube-apiserver without nodes. Each skip names what is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from testbed.programs import programs  # noqa: E402  # the path to it is made above

if programs().is_dir():  # what `make testbed` built
    os.environ.setdefault("FOREBAY_TESTBED_BIN", str(programs()))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault: breaks something; `make e2e-faults`")
