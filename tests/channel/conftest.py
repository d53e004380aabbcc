"""Fixtures of the tests that run a whole system with certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.reference import Reference


@pytest.fixture(scope="session")
def real(smollm2: Path) -> Reference:
    """What transformers answers with the real model."""
    return Reference(smollm2)
