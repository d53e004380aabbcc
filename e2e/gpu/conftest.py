"""Tests that need a GPU; each skip names what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import tosses  # the path to it is made above


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(tosses)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    missing = pytest.mark.skip(reason="no CUDA device: torch.cuda.is_available() is False")
    for item in items:
        item.add_marker(missing)
