"""How old a function's own query is: as old as the oldest of what it is computed from, whatever it computes."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request

import pytest

from forebay_api.conditions import Reason
from forebay_operator.decide.samples import Trouble
from forebay_operator.history import History
from measured.conftest import Bench, until_blind, until_known
from measured.gateways import Gateways
from prometheus_process import needs_prometheus

QUEUED = 'forebay_inflight{function="default/queued"}'


def asked(bench: Bench, query: str) -> list[object]:
    """What Prometheus itself says."""
    words = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{bench.prometheus.url}/api/v1/query?{words}") as answer:
        found: list[object] = json.load(answer)["data"]["result"]
    return found


@needs_prometheus
@pytest.mark.parametrize(
    "query",
    [
        f"sum(max_over_time({QUEUED}[1m])) + 0 * count(forebay_gateway_time_seconds)",
        f"sum({QUEUED}) or vector(0)",
    ],
    ids=["a number of the last minute", "a number of its own"],
)
async def test_an_exporter_dies_behind_a_query_that_goes_on_giving_numbers(fragile: Bench, query: str) -> None:
    exporter = Gateways(1)
    exporter.requests = {"queued": 8}
    try:
        fragile.prometheus.scrape(*fragile.gateways.ports, *exporter.ports)
        key = fragile.apply("f", prometheus={"query": query, "target": 1})
        other = fragile.apply("other", prometheus={"query": "sum(forebay_gateway_time_seconds) * 0", "target": 1})
        async with fragile.measuring() as measurements:
            assert (await until_known(measurements, key)).stable <= 8
            exporter.close()
            message = await until_blind(measurements, key, "NoSamples")
            assert message == f"the query is computed from {QUEUED}, of which there is no sample now"
            assert asked(fragile, query), "Prometheus still gives a number"
            await until_known(measurements, other)
            exporter = Gateways(1)
            exporter.requests = {"queued": 3}
            fragile.prometheus.scrape(*fragile.gateways.ports, *exporter.ports)
            await until_known(measurements, key)
    finally:
        exporter.close()


@needs_prometheus
async def test_inputs_grow_old(fragile: Bench) -> None:
    """Where nobody says that they are gone: Prometheus dies, and comes back without targets."""
    fragile.gateways.requests = {"f": 2}
    key = fragile.apply("f", prometheus={"query": "sum(max_over_time(forebay_inflight[1m])) / 2", "target": 1})
    async with fragile.measuring(url=fragile.prometheus.url) as measurements:
        await until_known(measurements, key)
        fragile.prometheus.kill()
        fragile.prometheus.scrape()
        fragile.prometheus.start()
        await until_blind(measurements, key, "StaleSamples")


@needs_prometheus
async def test_what_is_computed_from_nothing_has_no_age(bench: Bench) -> None:
    key = bench.apply("f", prometheus={"query": "hour() * 0 + 3", "target": 1})
    sampled = bench.apply("sampled", prometheus={"query": "count(forebay_gateway_time_seconds)", "target": 1})
    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        await until_known(measurements, sampled)
        assert measurements.seen(key, time.time()).ageless
        assert not measurements.seen(sampled, time.time()).ageless


class TestInterval:
    """Of samples, as far as it was seen."""

    def test_is_the_longest_where_targets_take_turns(self) -> None:
        history: History[float] = History()
        for stamped in (0.5, 60.0, 60.5, 120.0, 120.5):
            history.stamp(stamped)
        assert history.interval == 59.5

    def test_is_forgotten_in_time(self) -> None:
        history: History[float] = History()
        for stamped in (1.0, 61.0, *range(66, 500, 5)):
            history.stamp(float(stamped))
        assert history.interval == 5.0

    @pytest.mark.parametrize(
        ("reason", "before", "interval"),
        [
            (Reason.PROMETHEUS_UNREACHABLE, (), 0.0),
            (Reason.STALE_SAMPLES, (), 120.0),
            (Reason.STALE_SAMPLES, (995.0,), 5.0),
        ],
    )
    def test_of_an_outage_nothing_is_learnt(self, reason: Reason, before: tuple[float, ...], interval: float) -> None:
        """But of a slow scrape something is, though it begins with what seems stale."""
        history: History[float] = History()
        for stamped in (*before, 1000.0):
            history.stamp(stamped)
        history.trouble = Trouble(reason, "")
        history.stamp(1120.0)
        assert history.interval == interval
