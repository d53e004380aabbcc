"""Fixtures of all tests: checkpoints, made once a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import checkpoints
import tosses

# How long an example takes says how busy the machine is, and nothing of us. Who reads of a failure can have it again.
settings.register_profile("forebay", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("forebay")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(tosses)


def pytest_sessionstart() -> None:
    # Before Python 3.14 asking for the current loop makes one if none was ever set. pytest-asyncio asks, and nobody
    # closes what it gets.
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct in float32: the real one."""
    return checkpoints.real_smollm2()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny(family)`` is the folder of a tiny random model: llama, qwen2, qwen3, mistral, opt or gpt_neox."""
    base = tmp_path_factory.mktemp("tiny")
    return lambda family: checkpoints.tiny_model(family, base / family)
