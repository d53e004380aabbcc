"""Two releases whose functions are called alike, real gateways of both, scraped by one real Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from forebay_api.function import FunctionKey
from forebay_operator.config import InvalidSetting, OperatorConfig, PrometheusConfig
from forebay_operator.measurements import Measurements
from gateway import scripted
from measured.conftest import known, leading, until, until_blind, until_known, until_seen
from prometheus_process import PrometheusProcess, needs_prometheus

pytestmark = needs_prometheus

PATIENT = {"timeout_seconds": 600, "queue_timeout_seconds": 600, "cold_start_timeout_seconds": 600}

HELD = {"north/forebay": 1, "south/forebay": 3, "": 5}
"""Requests to default/f by release; the last one is a local mode's."""


@contextlib.asynccontextmanager
async def gateway(folder: Path, release: str) -> AsyncIterator[str]:
    """A process; its URL."""
    variables = {"FOREBAY_STATE": str(folder), "PYTHONPATH": ":".join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "forebay_gateway", "--port", "0", "--drain-seconds", "0"),
        env={**os.environ, **variables, **({"FOREBAY_METRICS_RELEASE": release} if release else {})},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().split()[1]
    finally:
        process.terminate()
        await process.communicate()


@contextlib.asynccontextmanager
async def serving(folder: Path, release: str) -> AsyncIterator[int]:
    """A gateway at which as many requests are held; its port."""
    operator = scripted.Operator(folder)
    await operator.start()
    try:
        async with gateway(folder, release) as url, aiohttp.ClientSession(url) as http:
            await operator.push([scripted.function("f", **PATIENT)])
            asked = [http.post("/default/f/v1/completions", json={"prompt": "Once"}) for _ in range(HELD[release])]
            asking = [asyncio.ensure_future(request) for request in asked]
            await until(lambda: operator.demand("f").waiting == HELD[release], lambda: operator.reports)
            yield int(url.rpartition(":")[2])
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    finally:
        await operator.stop()


@contextlib.asynccontextmanager
async def measuring(prometheus: PrometheusProcess, release: str, connected: int) -> AsyncIterator[Measurements]:
    config = PrometheusConfig(prometheus.url, interval=0.3, timeout=2.0, release=release)
    functions = {KEY: known("f")}
    measurements = Measurements(
        config, functions=lambda: functions, connected=lambda: connected, wake=lambda seconds: None, clock=time.time
    )
    async with leading(measurements):
        yield measurements


KEY = FunctionKey("default", "f")


@pytest.fixture
def folders() -> Iterator[list[Path]]:
    """Short: a unix socket's address has 107 bytes."""
    with contextlib.ExitStack() as stack:
        yield [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-"))) for _ in HELD]


async def test_each_release_sees_its_own_load_and_gateways(tmp_path: Path, folders: list[Path]) -> None:
    prometheus = PrometheusProcess(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(prometheus.kill)
        releases = zip(folders, HELD, strict=True)
        ports = [await stack.enter_async_context(serving(folder, release)) for folder, release in releases]
        prometheus.scrape(*ports)
        prometheus.start()
        for release, held in HELD.items():
            async with measuring(prometheus, release, connected=1) as measurements:
                await until_seen(measurements, KEY, lambda seen: seen.load and seen.load.stable == held)  # noqa: B023
                assert (await until_known(measurements, KEY)).panic == held
        # Three gateways are scraped, and each release knows how many of them are its own.
        async with measuring(prometheus, "south/forebay", connected=2) as measurements:
            assert await until_blind(measurements, KEY, "PartialSamples") == "Prometheus scrapes 1 of 2 gateways"
        async with measuring(prometheus, "west/forebay", connected=1) as measurements:
            assert "forebay_release west/forebay" in await until_blind(measurements, KEY, "NoSamples")


def test_the_release_comes_from_the_environment() -> None:
    environ = {"FOREBAY_PROMETHEUS_URL": "http://prometheus", "FOREBAY_STATE": "/s"}
    assert OperatorConfig.from_env(environ).metrics_release == ""
    named = OperatorConfig.from_env({**environ, "FOREBAY_METRICS_RELEASE": "models/forebay"})
    assert named.prometheus is not None
    assert {named.metrics_release, named.prometheus.release} == {"models/forebay"}
    with pytest.raises(InvalidSetting, match="FOREBAY_METRICS_RELEASE='a b'"):
        OperatorConfig.from_env({**environ, "FOREBAY_METRICS_RELEASE": "a b"})
