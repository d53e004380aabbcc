"""A Prometheus that scrapes two gateways, a proxy before it, and an autoscaler's measurements behind that."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forebay_api.function import Function, FunctionKey
from forebay_operator.config import PrometheusConfig
from forebay_operator.decide.load import Load, Measured
from forebay_operator.functions import Known
from forebay_operator.measurements import Measurements
from measured.gateways import Gateways
from measured.proxy import Proxy
from prometheus_process import LIMIT, PrometheusProcess

WINDOW = 6
"""Seconds; the shortest that a function may have."""


@dataclass
class Bench:
    """``functions`` and ``connected`` are what the operator knows."""

    prometheus: PrometheusProcess
    gateways: Gateways
    proxy: Proxy
    functions: dict[FunctionKey, Known] = field(default_factory=dict)
    connected: int = 2
    wakes: int = 0

    def apply(self, name: str, **scaling: object) -> FunctionKey:
        applied = known(name, **scaling)
        self.functions[applied.function.key] = applied
        return applied.function.key

    @contextlib.asynccontextmanager
    async def measuring(self, **settings: object) -> AsyncIterator[Measurements]:
        """An operator's, for as long as it leads."""
        config = PrometheusConfig(**({"url": self.proxy.url, "interval": 0.3, "timeout": 2.0} | settings))

        def wake(seconds: float) -> None:
            self.wakes += 1

        measurements = Measurements(
            config, functions=lambda: self.functions, connected=lambda: self.connected, wake=wake
        )
        async with leading(measurements):
            yield measurements


def known(name: str, **scaling: object) -> Known:
    body = {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "LLMFunction",
        "metadata": {"name": name, "namespace": "default", "uid": name, "generation": 1},
        "spec": {"model": {"uri": "file:///model"}, "scaling": {"windowSeconds": WINDOW, **scaling}},
    }
    return Known(Function.from_body(body), 0.0)


@contextlib.asynccontextmanager
async def leading(measurements: Measurements) -> AsyncIterator[None]:
    task = asyncio.create_task(measurements.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], object], told: Callable[[], object] = lambda: "") -> None:
    """Wait for what no event tells."""
    try:
        async with asyncio.timeout(LIMIT):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"in vain for {LIMIT} s: {told()}") from None


async def until_seen(measurements: Measurements, key: FunctionKey, holds: Callable[[Measured], object]) -> Measured:
    """What is seen of the function when it is so."""
    found: list[Measured] = []

    def seen() -> bool:
        found[:] = [measurements.seen(key, time.time())]
        return bool(holds(found[0]))

    await until(seen, lambda: found)
    return found[0]


async def until_known(measurements: Measurements, key: FunctionKey) -> Load:
    """Its load, once a whole window is known."""
    found = await until_seen(measurements, key, lambda seen: seen.trouble is None)
    assert found.load is not None
    assert found.load.known == WINDOW
    return found.load


async def until_blind(measurements: Measurements, key: FunctionKey, reason: str) -> str:
    """The message that comes with the reason."""
    found = await until_seen(measurements, key, lambda seen: seen.trouble and seen.trouble[0] == reason)
    assert found.trouble is not None
    return found.trouble[1]


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrometheusProcess, Gateways]]:
    """Of all tests that leave it in peace; it has more than a window in storage."""
    gateways = Gateways(2)
    prometheus = PrometheusProcess(tmp_path_factory.mktemp("prometheus"))
    try:
        prometheus.scrape(*gateways.ports)
        prometheus.start()
        time.sleep(WINDOW + 2)
        yield prometheus, gateways
    finally:
        prometheus.kill()
        gateways.close()


@pytest.fixture
async def bench(steady: tuple[PrometheusProcess, Gateways]) -> AsyncIterator[Bench]:
    async with _bench(*steady) as found:
        yield found


@pytest.fixture
async def fragile(tmp_path: Path) -> AsyncIterator[Bench]:
    """With a Prometheus of the test's own, that has nothing in storage yet."""
    gateways = Gateways(2)
    prometheus = PrometheusProcess(tmp_path)
    try:
        prometheus.scrape(*gateways.ports)
        prometheus.start()
        async with _bench(prometheus, gateways) as found:
            yield found
    finally:
        prometheus.kill()
        gateways.close()


@contextlib.asynccontextmanager
async def _bench(prometheus: PrometheusProcess, gateways: Gateways) -> AsyncIterator[Bench]:
    gateways.requests, gateways.tokens = {}, {}
    proxy = Proxy(prometheus.url)
    await proxy.open()
    try:
        yield Bench(prometheus, gateways, proxy)
    finally:
        await proxy.close()
