"""A cluster's operator whose Prometheus dies and comes back: a function's events say each of it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import plane
import pytest
from operators import FUNCTIONS, Operator, condition, pod, status, until

from control.actors import Gateway, Worker, checkpoint
from measured.gateways import Gateways
from prometheus_process import LIMIT, PrometheusProcess, needs_prometheus

INTERVAL = "1"
"""Seconds. After three of them samples are too old, and a scrape or two that are late must not make another event."""

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"

pytestmark = [
    needs_prometheus,
    pytest.mark.skipif(
        not plane.available() or not (plane.BINARIES / "helm").exists(),
        reason="no kube-apiserver or helm: `make testbed`",
    ),
]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[PrometheusProcess]:
    """Of one gateway, where one request of the function runs."""
    gateways = Gateways(1)
    gateways.requests = {"chat": 1.0}
    process = PrometheusProcess(tmp_path / "prometheus")
    try:
        process.scrape(*gateways.ports)
        process.start()
        yield process
    finally:
        process.kill()
        gateways.close()


@pytest.fixture
async def operator(api: plane.Plane, prometheus: PrometheusProcess) -> AsyncIterator[Operator]:
    """With a worker and that gateway, which says the same."""
    asking = {"FOREBAY_PROMETHEUS_URL": prometheus.url, "FOREBAY_PROMETHEUS_INTERVAL": INTERVAL}
    operator = Operator(api, "op-a", **asking).start()
    worker = Worker("w0", {"file:///models/a": checkpoint("aaaa", "file:///models/a")})
    gateway = Gateway("default")
    try:
        await asyncio.to_thread(until, operator.ready)
        worker.report.pod_uid = pod(api, worker.name)
        await worker.attach(f"127.0.0.1:{operator.grpc}")
        await gateway.connect(f"127.0.0.1:{operator.grpc}")
        gateway.ask("chat", in_flight=1)
        yield operator
    finally:
        for actor in (gateway, worker):
            await actor.die()
        operator.end()


async def test_blind_and_seeing_again_are_each_told_once(
    api: plane.Plane, operator: Operator, prometheus: PrometheusProcess
) -> None:
    spec = {"model": {"uri": "file:///models/a"}, "scaling": {"windowSeconds": 6}}
    metadata = {"name": "chat", "namespace": "default"}
    body = {"apiVersion": "forebay.dev/v1alpha1", "kind": "LLMFunction", "metadata": metadata, "spec": spec}
    api.apply(f"{FUNCTIONS}/chat", body)

    async def when(holds: Callable[[], object]) -> None:
        await asyncio.to_thread(until, holds, LIMIT)

    async def asked_more(outcome: str) -> None:
        """Ten times more, with this outcome."""
        before = operator.count("forebay_prometheus_queries_total", outcome=outcome)
        await when(lambda: operator.count("forebay_prometheus_queries_total", outcome=outcome) >= before + 10)

    await when(lambda: _scaling_active(api) == ("True", "Scaling"))
    assert not _told(api)
    prometheus.kill()
    await when(lambda: _scaling_active(api) == ("False", "PrometheusUnreachable"))
    await when(lambda: _told(api))
    await asked_more("PrometheusUnreachable")
    assert [reason for reason, _ in _told(api)] == ["ScalingBlind"]
    assert status(api, "chat")["scaling"]["desired"] == 1
    await asyncio.to_thread(prometheus.start)  # whoever reports to the operator goes on
    await when(lambda: _scaling_active(api) == ("True", "Scaling"))
    await when(lambda: "ScalingSees" in dict(_told(api)))
    await asked_more("OK")
    told = _told(api)
    assert [reason for reason, _ in told].count("ScalingSees") == 1
    # What came back may have no fresh samples at first. That is another reason, told once as well.
    assert sum("connection" in note for _, note in told) == 1
    assert all(told.count(each) == 1 for each in told)
    assert len(told) <= 3
    assert _scaling_active(api) == ("True", "Scaling")


def _scaling_active(api: plane.Plane) -> tuple[str, str]:
    found = condition(api, "chat", "ScalingActive")
    return found.get("status", ""), found.get("reason", "")


def _told(api: plane.Plane) -> list[tuple[str, str]]:
    """Reason and note of each event about what scaling sees, as often as it was told."""
    events = [event for event in api.request("GET", EVENTS)["items"] if event["reason"].startswith("Scaling")]
    often = [(event.get("series") or {}).get("count", 1) for event in events]
    return [(event["reason"], event["note"]) for event, count in zip(events, often, strict=True) for _ in range(count)]
