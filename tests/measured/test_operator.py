"""The whole operator before a real Prometheus: it scales by what that says, and loses no replica when it says
nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.conftest import System
from control.operators import function
from forebay_operator.config import PrometheusConfig
from measured.conftest import WINDOW, Bench, until
from prometheus_process import LIMIT, needs_prometheus

pytestmark = needs_prometheus

SCALING = {
    "windowSeconds": WINDOW,
    "target": 1,
    "targetUtilizationPercent": 100,
    "maxReplicas": 3,
    "scaleToZeroGracePeriodSeconds": 600,
}


@pytest.fixture
async def system(tmp_path: Path, fragile: Bench) -> AsyncIterator[System]:
    """One gateway is connected, with one request; what Prometheus says of it is up to the test."""
    system = System(tmp_path / "state")
    # Of what local mode shows itself it asks, whatever release the environment names.
    config = PrometheusConfig(fragile.prometheus.url, interval=0.3, timeout=2.0, release="another")
    system.operator.config = replace(system.operator.config, prometheus=config)
    await system.start(function("a", "file:///m/a", scaling=SCALING), workers=3)
    system.gateway.ask("a", in_flight=1)
    yield system
    await system.close()


async def seen_when(system: System, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The function as the view shows it, once that holds."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(LIMIT):
            while not holds(found := await system.seen("a")):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"in vain: {found}") from None
    return found


def scaling(found: dict[str, Any]) -> tuple[str, str]:
    condition = next(entry for entry in found["conditions"] if entry["type"] == "ScalingActive")
    return condition["status"], condition["reason"]


async def test_up_by_what_it_says_blind_without_a_loss_and_down_when_it_says_so(fragile: Bench, system: System) -> None:
    fragile.gateways.requests = {"a": 1.25}  # of two gateways: 2.5 in all, though only one request is connected to us
    await seen_when(system, lambda found: len(system.routes()) == 3)
    await seen_when(system, lambda found: scaling(found) == ("True", "Scaling"))

    fragile.prometheus.kill()
    fragile.gateways.requests = {"a": 0}
    await seen_when(system, lambda found: scaling(found) == ("False", "PrometheusUnreachable"))
    before = system.gateway.acknowledged
    await until(lambda: system.gateway.acknowledged > before + 20)
    assert len(system.routes()) == 3

    fragile.prometheus.wipe()
    fragile.prometheus.start()
    await seen_when(system, lambda found: scaling(found) == ("False", "NotYetKnown"))
    assert len(system.routes()) == 3
    found = await seen_when(system, lambda found: scaling(found) == ("True", "Scaling"))
    await seen_when(system, lambda found: len(system.routes()) == 1)
    assert "Prometheus" in {given["source"] for given in found["scaling"]["inputs"]}
