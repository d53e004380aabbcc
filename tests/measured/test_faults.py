"""What stands between us and Prometheus breaks: functions become blind for the right reason, and see again by
themselves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from forebay_operator import prometheus as client
from forebay_operator.asking import OwnAsked
from forebay_operator.measurements import Measurements
from measured import proxy
from measured.conftest import Bench, until, until_blind, until_known
from prometheus_process import needs_prometheus

pytestmark = needs_prometheus

FAULTS: list[tuple[str, proxy.Fault, str, str]] = [
    ("truncated", proxy.truncated, "PrometheusUnreachable", "no answer of Prometheus' API"),
    ("a log-in page", proxy.html, "PrometheusUnreachable", "no answer of Prometheus' API"),
    ("401", proxy.refused(401), "PrometheusUnauthorized", "refuses our credentials (401)"),
    ("403", proxy.refused(403), "PrometheusUnauthorized", "refuses our credentials (403)"),
    ("404", proxy.refused(404), "PrometheusUnreachable", "404"),
    ("502", proxy.refused(502), "PrometheusUnreachable", "502"),
    ("504", proxy.refused(504), "PrometheusTimeout", "504"),
    ("a redirect", proxy.refused(302, Location="http://127.0.0.1:1/"), "PrometheusUnreachable", "redirects (302)"),
    ("bad_data", proxy.in_error(400, "bad_data", "1:6: parse error"), "QueryInvalid", "1:6: parse error"),
    ("timeout", proxy.in_error(503, "timeout", "query timed out"), "PrometheusTimeout", "query timed out"),
    ("warnings", proxy.warning, "PartialSamples", "a store did not answer"),
    ("NaN", proxy.with_values(lambda labels, value: float("nan")), "NoSamples", "no samples of any gateway"),
    (
        "NaN requests",
        proxy.with_values(lambda labels, value: float("nan") if labels["is"] == "requests" else value),
        "NotANumber",
        "nan for default/f",
    ),
    (
        "a sample of the future",
        proxy.with_values(lambda labels, value: value + 100 if labels["is"] == "oldest" else value),
        "ClockSkew",
        "ahead of Prometheus' own clock",
    ),
    (
        "old samples",
        proxy.with_values(lambda labels, value: value - 200 if labels["is"] == "oldest" else value),
        "StaleSamples",
        "older than",
    ),
]

LATE = {"PartialSamples", "NoSamples", "StaleSamples"}
"""What is said, too, where Prometheus was late for a scrape."""


@pytest.mark.parametrize(("fault", "reason", "text"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
async def test_a_fault_blinds_for_its_reason_and_passes(
    bench: Bench, fault: proxy.Fault, reason: str, text: str
) -> None:
    bench.gateways.requests = {"f": 2}
    key = bench.apply("f")
    with capture_logs() as logs:
        async with bench.measuring() as measurements:
            await until_known(measurements, key)
            bench.proxy.fault = fault
            assert text in await until_blind(measurements, key, reason)
            assert measurements.seen(key, time.time()).load is None
            count = {"reason": reason}
            await until(lambda: REGISTRY.get_sample_value("forebay_prometheus_blind_functions", count) == 1)
            bench.proxy.fault = None
            await until_known(measurements, key)
            await until(lambda: REGISTRY.get_sample_value("forebay_prometheus_blind_functions", count) is None)
    said = [entry["reason"] for entry in logs if entry["event"] == "Prometheus does not measure"]
    ours = [each for each in said if each == reason or each not in LATE]
    assert ours
    assert ours == [reason] * (len(ours) if reason in LATE else 1)
    assert 1 <= [entry["event"] for entry in logs].count("Prometheus measures again") <= len(said)


async def test_one_failure_blinds_nobody(bench: Bench) -> None:
    """The samples of the round before are not that old."""
    key = bench.apply("f")
    failed = []

    def once(request: web.Request, body: bytes, status: int) -> web.Response | bytes:
        if failed:
            return body
        failed.append(True)
        return web.Response(status=502)

    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        bench.proxy.fault = once
        bench.proxy.asked.clear()
        troubles = []

        def asked_on() -> bool:
            troubles.append(measurements.seen(key, time.time() - 0.5).trouble)
            return len(bench.proxy.asked) > 4

        await until(asked_on)
    assert failed
    assert troubles == [None] * len(troubles)


async def test_who_answers_too_late_blinds_and_holds_up_nobody(bench: Bench) -> None:
    key = bench.apply("f")
    own = bench.apply("own", prometheus={"query": "vector(1)", "target": 1})
    async with bench.measuring(timeout=0.5) as measurements:
        await until_known(measurements, key)
        await until_known(measurements, own)
        bench.proxy.delay = 30.0
        assert "did not answer within 0.5 s" in await until_blind(measurements, key, "PrometheusTimeout")
        await until_blind(measurements, own, "PrometheusTimeout")
        bench.proxy.delay = 0.0
        await until_known(measurements, key)


async def test_many_slow_own_queries_take_turns(bench: Bench) -> None:
    """Who got no turn in a round has the first one in the next."""
    queries = [f"vector({number})" for number in range(40)]
    for number, query in enumerate(queries):
        bench.apply(f"f{number}", prometheus={"query": query, "target": 1})
    bench.proxy.delay = 0.2  # and eight are asked at once: a round has not time enough for all

    def times() -> list[int]:
        asked = [asked["query"] for asked in bench.proxy.asked if "step" not in asked]
        return [asked.count(query) for query in queries]

    async with bench.measuring(timeout=1.0):
        await until(lambda: min(times()) > 1)
    assert max(times()) - min(times()) <= 3


async def test_fewer_gateways_than_are_connected(bench: Bench) -> None:
    key = bench.apply("f")
    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        bench.connected = 3
        assert "2 of 3 gateways" in await until_blind(measurements, key, "PartialSamples")
        bench.connected = 2
        await until_known(measurements, key)


async def test_a_clock_that_is_set_back(bench: Bench) -> None:
    """What is remembered would lie in the future: it is read anew, by the new clock."""
    bench.gateways.requests = {"f": 2}
    key = bench.apply("f")
    shift = proxy.with_values(lambda labels, value: value - 3600 if labels["is"] == "oldest" else value, later=-3600)
    with capture_logs() as logs:
        async with bench.measuring() as measurements:
            await until_known(measurements, key)
            bench.proxy.fault = shift
            await until(lambda: any(entry.get("reason") == "ClockSkew" for entry in logs))
            load = await until_known(measurements, key)
            assert abs(time.time() - load.sampled_at) < 60  # of our clock
            bench.proxy.fault = None
            await until_known(measurements, key)


async def test_an_answer_without_end_is_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bench.apply("f")
    async with bench.measuring() as measurements:
        await until_known(measurements, key)
        monkeypatch.setattr(client, "ANSWER_BYTES", 64)
        assert "longer than" in await until_blind(measurements, key, "QueryInvalid")
        monkeypatch.undo()
        await until_known(measurements, key)


async def test_a_rotated_token_is_read_anew_and_never_told(bench: Bench, tmp_path: Path) -> None:
    key = bench.apply("f")
    file = tmp_path / "token"
    bench.proxy.token = "first-of-all"
    with capture_logs() as logs:
        async with bench.measuring(token_file=file) as measurements:
            messages = [await until_blind(measurements, key, "PrometheusUnauthorized")]
            assert str(file) in messages[0]
            file.write_text("two words\n")
            await until(lambda: "without spaces" in measurements.seen(key, time.time()).trouble[1])
            messages.append(measurements.seen(key, time.time()).trouble[1])
            file.write_text("first-of-all\n")
            await until_known(measurements, key)
            bench.proxy.token = "second-one"
            messages.append(await until_blind(measurements, key, "PrometheusUnauthorized"))
            file.write_text("second-one")
            await until_known(measurements, key)
    told = repr(logs) + repr(messages)
    assert not any(secret in told for secret in ("first-of-all", "second-one", "two words"))
    assert "Bearer second-one" in bench.proxy.authorized


async def test_a_round_that_breaks_is_not_the_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bench.apply("f")
    async with bench.measuring() as measurements:
        await until_known(measurements, key)

        def broken(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        with capture_logs() as logs:
            monkeypatch.setattr(Measurements, "_jobs", broken)
            await until_blind(measurements, key, "StaleSamples")
            monkeypatch.undo()
            await until_known(measurements, key)
    assert any(entry["event"] == "a round of queries failed" for entry in logs)


async def test_a_query_that_breaks_blinds_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(OwnAsked, "ask", broken)
    own, plain = bench.apply("own", prometheus={"query": "42", "target": 1}), bench.apply("plain")
    with capture_logs() as logs:
        async with bench.measuring() as measurements:
            await until_known(measurements, plain)
            await until_blind(measurements, own, "PrometheusUnreachable")
    assert any(entry["event"] == "a query failed" and entry["query"] == "42" for entry in logs)
