"""Replicas follow what Prometheus measures of two gateways: up, down and to zero; and a person can read why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scraped import NAME, Scraped, Seen, given, scaling_active

from local.reference import Reference
from prometheus_process import needs_prometheus

pytestmark = [needs_prometheus, pytest.mark.asyncio(loop_scope="session")]

PROMPT, TOKENS = "One two three four five six seven", 12


async def test_load_rises_and_falls_and_stops(system: Scraped, model: Path) -> None:
    reference = Reference(model)

    async def same_tokens() -> None:
        for answer in await system.clients.answers(PROMPT, TOKENS):
            reference.check(answer, PROMPT, TOKENS, chat=False)

    await system.clients.ask(0)
    await system.until(lambda found: (found["desired"], found["ready"]) == (0, 0), "nothing runs")
    for load, replicas in ((1, 1), (3, 2), (5, 3)):
        await system.clients.ask(load)
        await system.settled(replicas, load)
        await same_tokens()
    await whole(system, 3)
    said = await system.forebay("explain", NAME)
    first, second = said.splitlines()[:2]
    assert "requests (mean of 6 s, Prometheus), 2 per replica: 3 replicas" in first
    assert second.startswith("3 wanted, 3 answer (Mean")
    assert "blind (" not in said
    for load, replicas in ((3, 2), (1, 1)):
        await system.clients.ask(load)
        await system.settled(replicas, load)
        await same_tokens()
    await system.clients.ask(0)
    await system.until(lambda found: (found["desired"], found["ready"]) == (0, 0), "it stops")
    assert "idle for 2 s" in await system.forebay("explain", NAME)
    await same_tokens()  # from zero once more


async def test_a_query_of_its_own(system: Scraped) -> None:
    """It counts what it likes, against a target of its own. This one is never above 4: a peak left by the test before
    would bring a third replica, which 4 requests are no reason to let go."""
    await system.clients.ask(1)
    await system.settled(1, 1)
    query = '4 * (sum(forebay_inflight{function="default/chat"}) > bool 0)'
    system.apply(prometheus={"query": query, "target": 2})
    try:
        await system.settled(2, 4)
        # At first it panics: twice of what one replica takes, all at once.
        said = "by its own query (mean of 6 s, Prometheus), 2 per replica: 2 replicas"
        await system.until(lambda found: said in found["scaling"]["message"], said)
    finally:
        system.apply()
    await system.settled(1, 1)


async def test_tokens_per_second(system: Scraped) -> None:
    """Of a replica so few are expected that any machine gives more of them, and all that may be are wanted; then so
    many that none does."""
    await system.clients.ask(2)

    async def settled(replicas: int, **more: object) -> Seen:
        def holds(found: Seen) -> bool:
            return (
                (found["desired"], found["ready"]) == (replicas, replicas)
                and scaling_active(found) == ("True", "Scaling")
                and more.items() <= found["scaling"].items()
            )

        return await system.until(holds, f"{replicas} replicas by tokens per second")

    await settled(1)
    try:
        system.apply(metric="TokensPerSecond", target=0.01)
        found = await settled(3, limit="maxReplicas")  # it panics all the time: twice as much as three take
        # The short mean is of Prometheus or of the gateways, whoever counted more just then; the long one is not.
        assert "tokens/s (mean of " in found["scaling"]["message"]
        assert "), 0.01 per replica" in found["scaling"]["message"]
        stable = given(found, "stable")
        assert stable["source"] == "Prometheus"
        assert stable["value"] > 3 * 0.01
        system.apply(metric="TokensPerSecond", target=100_000)
        await settled(1)
        await system.clients.ask(0)
        await system.until(lambda found: (found["desired"], found["ready"]) == (0, 0), "it stops")
    finally:
        system.apply()


async def whole(system: Scraped, replicas: int) -> None:
    """Each replica is all of the model on one worker, once what the start needed is over."""

    def holds(view: Seen) -> bool:
        formed = [pipeline for pipeline in view["pipelines"] if pipeline["phase"] == "Formed"]
        return len(formed) == replicas and all(len(pipeline["stages"]) == 1 for pipeline in formed)

    async with asyncio.timeout(60):
        await system.system.until(holds, f"{replicas} workers with all of it")
