"""Whatever keeps Prometheus from measuring: no replica goes because of it, the reason is said, gateways still scale up,
and when it measures again the function goes where it would have gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from aiohttp import web
from scraped import RIGHT, WORKERS, WRONG, Scraped

from local.system import PATIENCE
from measured import proxy
from prometheus_process import needs_prometheus

pytestmark = [needs_prometheus, pytest.mark.asyncio(loop_scope="session")]

FEW, SOME, MANY = 0, 3, 6
"""Requests all the time: of zero, two and three replicas."""


@dataclass(frozen=True, slots=True)
class Case:
    """``begin`` and ``end`` may block. ``reason``: of the condition."""

    name: str
    reason: str
    begin: Callable[[Scraped], object]
    end: Callable[[Scraped], object]


def faulty(fault: proxy.Fault | None) -> Callable[[Scraped], None]:
    def switch(system: Scraped) -> None:
        system.proxy.fault = fault

    return switch


def delayed(seconds: float) -> Callable[[Scraped], None]:
    def switch(system: Scraped) -> None:
        system.proxy.delay = seconds

    return switch


def own(query: str) -> Callable[[Scraped], None]:
    return lambda system: system.apply(prometheus={"query": query, "target": 2})


def empty(request: web.Request, body: bytes, status: int) -> bytes:
    said = json.loads(body)
    return json.dumps({**said, "data": {**said["data"], "result": []}}).encode()


def crash_and_scrape_nobody(system: Scraped) -> None:
    """It goes on giving the last samples it has for five minutes."""
    system.prometheus.kill()
    system.prometheus.scrape()
    system.prometheus.start()


NAN = proxy.with_values(lambda labels, value: float("nan") if labels.get("is") == "requests" else value)
BEHIND = proxy.with_values(lambda labels, value: value, later=-100.0)
CASES = [
    Case("slow", "PrometheusTimeout", delayed(30.0), delayed(0.0)),
    Case(
        "wrong credentials",
        "PrometheusUnauthorized",
        lambda system: system.token.write_text(WRONG),
        lambda system: system.token.write_text(RIGHT),
    ),
    Case("NaN", "NotANumber", faulty(NAN), faulty(None)),
    Case("an empty result", "NoSamples", faulty(empty), faulty(None)),
    Case("half an answer", "PrometheusUnreachable", faulty(proxy.truncated), faulty(None)),
    Case("clock skew", "ClockSkew", faulty(BEHIND), faulty(None)),
    Case(
        "stale samples",
        "StaleSamples",
        crash_and_scrape_nobody,
        lambda system: system.prometheus.scrape(*system.targets),
    ),
    Case("a query that is wrong", "QueryInvalid", own("sum(("), Scraped.apply),
    Case("a query with two series", "SeveralSeries", own("forebay_inflight"), Scraped.apply),
]


@contextlib.asynccontextmanager
async def not_fewer_than(system: Scraped, replicas: int) -> AsyncIterator[None]:
    """Neither wanted nor answering, at any moment."""
    system.least = WORKERS
    watching = asyncio.create_task(system.watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert system.least == replicas


async def falls_in_vain(system: Scraped, replicas: int) -> None:
    """Nobody asks any more, for longer than the grace period: it would go to zero, and stays."""
    await system.clients.ask(FEW)
    found = await system.until(
        lambda found: (found["scaling"]["reason"], found["scaling"]["limit"]) == ("Idle", "blind"), "it is idle"
    )
    assert (found["desired"], found["ready"]) == (replicas, replicas)


async def is_said(system: Scraped, reason: str) -> None:
    await system.blind(reason)
    assert await system.condition() == ("False", reason)
    assert (await system.measured())["forebay_scaling_blind", "default/chat"] == 1
    async with asyncio.timeout(PATIENCE):  # it is counted when a round of queries ends, however long that takes
        while ("forebay_prometheus_blind_functions", reason) not in await system.measured():
            await asyncio.sleep(0.1)
    assert f"blind ({reason}): " in await system.forebay("explain", "chat")


async def rises_all_the_same(system: Scraped, reason: str) -> None:
    await system.clients.ask(MANY)
    found = await system.until(lambda found: (found["desired"], found["ready"]) == (3, 3), "gateways scale up")
    assert {entry["source"] for entry in found["scaling"]["inputs"]} == {"gateways"}
    await system.blind(reason)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_blind_and_back(system: Scraped, case: Case) -> None:
    await system.clients.ask(SOME)
    await system.settled(2, SOME)
    async with not_fewer_than(system, 2):
        await asyncio.to_thread(case.begin, system)
        try:
            await is_said(system, case.reason)
            await falls_in_vain(system, 2)
            await rises_all_the_same(system, case.reason)
            await system.clients.ask(SOME)
        finally:
            await asyncio.to_thread(case.end, system)
        await system.settled(2, SOME)
    assert (await system.measured())["forebay_scaling_blind", "default/chat"] == 0


async def test_killed_and_back_without_what_it_had_stored(system: Scraped) -> None:
    """It begins to know only then: what it has not seen is not zero."""
    await system.clients.ask(SOME)
    await system.settled(2, SOME)
    async with not_fewer_than(system, 2):
        system.prometheus.kill()
        try:
            await is_said(system, "PrometheusUnreachable")
            await falls_in_vain(system, 2)
            await rises_all_the_same(system, "PrometheusUnreachable")
            await falls_in_vain(system, 3)
            system.prometheus.wipe()
        finally:
            await asyncio.to_thread(system.prometheus.start)
        found = await system.blind("NotYetKnown")
        assert (found["desired"], found["ready"]) == (3, 3)
        await system.clients.ask(SOME)
        await system.settled(2, SOME)
