"""One system for all tests: operator, two gateways, workers, and the Prometheus that scrapes them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from checkpoints import tiny_model

sys.path.insert(0, str(Path(__file__).resolve().parent))

from scraped import Scraped, running


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory, model: Path) -> AsyncIterator[Scraped]:
    async with running(tmp_path_factory.mktemp("system"), model) as found:
        yield found
