"""What a real Prometheus says of functions, and how it is asked."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from measured.conftest import WINDOW, Bench, until, until_blind, until_known, until_seen
from prometheus_process import needs_prometheus

pytestmark = needs_prometheus


async def test_one_query_tells_of_all_functions(bench: Bench) -> None:
    """Of those that gateways have never heard of, too: nothing is asked of them."""
    bench.gateways.requests = {"busy": 3, "calm": 1}
    busy, calm, unheard = bench.apply("busy"), bench.apply("calm"), bench.apply("unheard")
    async with bench.measuring() as measurements:
        # Two gateways say the same.
        await until_seen(measurements, busy, lambda seen: seen.load and seen.load.stable == 6)
        loads = [await until_known(measurements, key) for key in (busy, calm, unheard)]
        assert [load.stable for load in loads] == [6, 2, 0]
        assert [load.panic for load in loads] == [6, 2, 0]
        assert 0 <= time.time() - loads[0].sampled_at < 60
    assert len({asked["query"] for asked in bench.proxy.asked if asked["path"].endswith("query")}) <= 2
    assert {asked["timeout"] for asked in bench.proxy.asked} == {"2000ms"}


async def test_a_change_shows_in_the_panic_window_first(bench: Bench) -> None:
    key = bench.apply("rising")
    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        bench.gateways.requests = {"rising": 4}
        found = await until_seen(measurements, key, lambda seen: seen.load and seen.load.panic > 4)
        assert found.load is not None
        assert found.load.stable < found.load.panic
        await until_seen(measurements, key, lambda seen: seen.load and seen.load.stable == 8)


async def test_tokens_are_counted_by_the_second(bench: Bench) -> None:
    key = bench.apply("f", metric="TokensPerSecond")
    bench.gateways.tokens = {"f": 0}
    writing = asyncio.create_task(_write(bench))
    try:
        async with bench.measuring() as measurements:
            found = await until_seen(measurements, key, lambda seen: seen.load and seen.load.stable > 50)
            assert found.load is not None
    finally:
        writing.cancel()


async def _write(bench: Bench) -> None:
    while True:
        bench.gateways.tokens["f"] += 10
        await asyncio.sleep(0.1)


async def test_own_queries_are_asked_once_whoever_has_them(bench: Bench) -> None:
    bench.gateways.requests = {"f": 3}
    query = 'sum(forebay_inflight{function="default/f"}) * 10'
    one = bench.apply("one", prometheus={"query": query, "target": 5})
    other = bench.apply("other", prometheus={"query": query, "target": 7})
    plain = bench.apply(
        "plain",
        prometheus={"query": f'forebay_inflight{{instance="127.0.0.1:{bench.gateways.ports[0]}"}}', "target": 1},
    )
    scalar = bench.apply("scalar", prometheus={"query": "42", "target": 1})
    async with bench.measuring() as measurements:
        for key, value in ((one, 60), (other, 60), (plain, 3), (scalar, 42)):
            # An own query cannot tell that the second gateway has not been scraped yet.
            await until_seen(measurements, key, lambda seen, value=value: seen.load and seen.load.stable == value)
        bench.proxy.asked.clear()
        await until(lambda: sum(asked["query"] == query for asked in bench.proxy.asked) == 3)
        texts = [asked["query"] for asked in bench.proxy.asked]
        assert texts.count("42") <= 4
        assert not any("forebay_queue_depth" in text for text in texts)  # nobody has the default one


async def test_who_takes_over_knows_at_once_what_is_stored(bench: Bench) -> None:
    bench.gateways.requests = {"f": 2}
    key = bench.apply("f")
    own = bench.apply("own", prometheus={"query": "sum(forebay_inflight)", "target": 1})
    async with bench.measuring() as first:
        for asked in (key, own):
            await until_seen(first, asked, lambda seen: not seen.trouble and seen.load and seen.load.stable == 4)
    bench.proxy.asked.clear()
    async with bench.measuring() as second:
        # The first thing that is told is the whole window, not the beginning of one.
        for asked in (key, own):
            found = await until_seen(second, asked, lambda seen: seen.load)
            assert found.trouble is None
            assert found.load is not None
            assert (found.load.stable, found.load.known) == (4, WINDOW)


async def test_a_longer_window_is_filled_from_what_is_stored(bench: Bench) -> None:
    bench.gateways.requests = {"f": 2}
    key = bench.apply("f")
    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        bench.apply("f", windowSeconds=8)
        bench.proxy.asked.clear()
        await until_seen(measurements, key, lambda seen: seen.load and seen.load.known == 8 and not seen.trouble)
        assert any("step" in asked for asked in bench.proxy.asked)


async def test_passes_are_woken_by_changes_alone(bench: Bench) -> None:
    bench.gateways.requests = {"f": 2}
    key = bench.apply("f")
    async with bench.measuring() as measurements:
        # A mean of what was scraped before there was any differs from round to round.
        await until_seen(measurements, key, lambda seen: seen.load and seen.load.stable == seen.load.panic == 4)
        bench.proxy.asked.clear()
        await until(lambda: len(bench.proxy.asked) > 2)
        before = bench.wakes
        await until(lambda: len(bench.proxy.asked) > 8)
        assert bench.wakes == before
        bench.gateways.requests = {"f": 3}
        await until(lambda: bench.wakes > before)


@pytest.mark.parametrize(
    ("query", "reason", "text"),
    [
        ("sum((", "QueryInvalid", "parse error: unclosed left parenthesis"),
        ("forebay_inflight + on (job) forebay_queue_depth", "QueryInvalid", "many-to-many"),
        ("forebay_inflight[1m]", "QueryInvalid", "matrix"),
        ("forebay_inflight", "SeveralSeries", "2 series"),
        ("no_such_thing", "NoSamples", "gives nothing"),
        ("vector(0) / 0", "NotANumber", "nan"),
        ("vector(1) / 0", "NotANumber", "inf"),
        ("vector(-1)", "NotANumber", "a negative number"),
    ],
)
async def test_what_is_wrong_with_an_own_query_is_said(bench: Bench, query: str, reason: str, text: str) -> None:
    """In Prometheus' own words where it has some; and who has another query is none the wiser."""
    bench.gateways.requests = {"f": 2}
    other = bench.apply("other")
    key = bench.apply("f", prometheus={"query": query, "target": 1})
    with capture_logs() as logs:
        async with bench.measuring() as measurements:
            assert text in await until_blind(measurements, key, reason)
            await until_known(measurements, other)
            assert measurements.seen(key, time.time()).load is None
            bench.apply("f", prometheus={"query": "vector(1)", "target": 1})
            await until_known(measurements, key)
    told = [entry for entry in logs if entry.get("reason") == reason]
    assert len(told) == 1  # however often it was asked
