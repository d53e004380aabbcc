"""How much memory a worker's process takes while it loads, beside the units that it holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from forebay_cli import view

if TYPE_CHECKING:
    from local.system import System

SAMPLE_SECONDS = 0.05
MOST = 1.25
"""Of its units, what a worker may take above a bare one."""


@dataclass
class Footprint:
    """Of one process, in bytes: ``bare`` is its resident set when it was warm and held nothing. Units that are mapped
    from a file are in the resident set, too. KV is left out: a page is taken when a token is first written to it, and
    these prompts have few.

    ``units``: what its link has brought, which is the most that it held at once: it reads no unit twice, and lets none
    go before it is released. What it reports as resident lags by a unit, and a unit may be a fifth of a model."""

    bare: int
    peak: int
    units: int = 0

    @property
    def above(self) -> int:
        return self.peak - self.bare

    @property
    def ratio(self) -> float:
        return self.above / self.units


@contextlib.asynccontextmanager
async def followed(system: System) -> AsyncIterator[dict[str, Footprint]]:
    """Of every worker by name, kept up until the block ends. They must be warm and hold nothing."""
    workers = (await system.look())["workers"]
    processes = {worker["name"]: psutil.Process(worker["pid"]) for worker in workers}
    begun = {worker["name"]: worker["bytesRead"] for worker in workers}
    found = {name: Footprint(rss, rss) for name, rss in _resident(processes).items()}

    async def sample() -> None:
        while True:
            for name, rss in _resident(processes).items():
                found[name].peak = max(found[name].peak, rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def watch() -> None:
        async for seen in view.watch(system.state.operator()):
            for worker in seen["workers"]:
                found[worker["name"]].units = worker["bytesRead"] - begun[worker["name"]]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sample()), group.create_task(watch())]
        yield found
        for task in tasks:
            task.cancel()


def _resident(processes: dict[str, psutil.Process]) -> dict[str, int]:
    return {name: process.memory_info().rss for name, process in processes.items()}


def worst(found: dict[str, Footprint]) -> Footprint:
    """Of those that held something."""
    return max((each for each in found.values() if each.units), key=lambda each: each.ratio)
