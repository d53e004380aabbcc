"""Why a function has as many replicas as it has, as people read it of a real operator: kubectl describe and explain."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import plane
import pytest
from kubectl import Kubectl, program
from operators import FUNCTIONS, Operator, pod, status, until

from control.actors import Gateway, Worker, checkpoint
from forebay_api import local

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
SCALING = {"maxReplicas": 2, "target": 2, "targetUtilizationPercent": 100, "windowSeconds": 6, "panicWindowPercent": 50}

pytestmark = pytest.mark.skipif(
    not plane.available() or program() is None or not (plane.BINARIES / "helm").exists(),
    reason="no kube-apiserver, kubectl or helm: `make testbed`",
)


@pytest.fixture
def operator(api: plane.Plane) -> Iterator[Operator]:
    operator = Operator(api, "op-a").start()
    yield operator
    operator.end()


@pytest.fixture
async def gateway(api: plane.Plane, operator: Operator) -> AsyncIterator[Gateway]:
    """With two workers, which answer at once."""
    await asyncio.to_thread(until, operator.ready)
    checkpoints: dict[str, Any] = {"file:///models/a": checkpoint("aaaa", "file:///models/a")}
    workers = [Worker(f"w{number}", checkpoints) for number in range(2)]
    gateway = Gateway("default")
    try:
        for worker in workers:
            worker.report.pod_uid = pod(api, worker.name)
            await worker.attach(f"127.0.0.1:{operator.grpc}")
        await gateway.connect(f"127.0.0.1:{operator.grpc}")
        yield gateway
    finally:
        for actor in (gateway, *workers):
            await actor.die()


def explained(operator: Operator, folder: Path, *words: str) -> str:
    """By a person who has a way to the operator's own port."""
    (folder / local.OPERATOR_FILE).write_text(json.dumps({"address": f"127.0.0.1:{operator.view}", "pid": os.getpid()}))
    verb = [sys.executable, "-m", "forebay_cli", "explain", "chat", "--state", str(folder), *words]
    return subprocess.run(verb, capture_output=True, text=True, timeout=60, check=True).stdout


async def test_load_rises_and_falls_and_everybody_can_read_why(
    api: plane.Plane, operator: Operator, gateway: Gateway, tmp_path: Path
) -> None:
    kubectl = Kubectl(str(program()), api.kubeconfig)
    spec = {"model": {"uri": "file:///models/a"}, "scaling": SCALING}
    metadata = {"name": "chat", "namespace": "default"}
    body = {"apiVersion": "forebay.dev/v1alpha1", "kind": "LLMFunction", "metadata": metadata, "spec": spec}
    api.apply(f"{FUNCTIONS}/chat", body)

    def scaling() -> dict[str, Any]:
        found: dict[str, Any] = status(api, "chat").get("scaling") or {}
        return found

    async def decided(desired: int, **more: Any) -> dict[str, Any]:
        wanted = {"desired": desired, **more}
        await asyncio.to_thread(until, lambda: wanted.items() <= scaling().items())
        return scaling()

    await decided(0)
    await asyncio.to_thread(until, lambda: status(api, "chat").get("model"))
    gateway.ask("chat", waiting=1)
    await decided(1)
    gateway.ask("chat", in_flight=1)
    gateway.first_token("chat")
    started = await asyncio.to_thread(until, lambda: status(api, "chat").get("coldStart"))
    assert started["count"] == 1
    assert started["lastSeconds"] == pytest.approx(sum(started["breakdown"].values()), abs=0.002)

    gateway.ask("chat", in_flight=5)
    high = await decided(2, limit="maxReplicas", reason="Mean")  # of a whole window: it stays so
    assert "maxReplicas is 2" in high["message"]
    assert {"name", "value", "sampledAt", "source"} <= high["inputs"][0].keys()
    described = await asyncio.to_thread(kubectl, "describe", "llmfn", "chat")  # the gateway must not fall silent
    assert "maxReplicas is 2" in described.stdout
    said = (await asyncio.to_thread(explained, operator, tmp_path)).splitlines()
    assert said[0].startswith("default/chat: ")
    assert "2 wanted" in said[1]
    assert "limited by maxReplicas" in said[1]

    gateway.ask("chat", in_flight=1)
    await decided(1)
    found = json.loads(await asyncio.to_thread(explained, operator, tmp_path, "-o", "json"))
    desired = [decision["desired"] for decision in reversed(found["decisions"])]
    steps = [number for number, before in zip(desired, [None, *desired], strict=False) if number != before]
    assert steps == [0, 1, 2, 1]

    def told() -> set[str]:
        items = api.request("GET", EVENTS)["items"]
        return {event["reason"] for event in items if event["regarding"]["name"] == "chat"}

    await asyncio.to_thread(until, lambda: {"ScaledUp", "ScaledDown"} <= told())
    assert "ScalingBlind" not in told()
    assert operator.count("forebay_desired_replicas", function="default/chat") == 1

    await gateway.die()  # nothing says that there is no load: what there is stays
    await asyncio.to_thread(until, lambda: "ScalingBlind" in told())
    await asyncio.sleep(2)
    assert scaling()["desired"] == 1
    assert operator.count("forebay_scaling_blind", function="default/chat") == 1
    api.request("DELETE", f"{FUNCTIONS}/chat")
    await asyncio.to_thread(until, lambda: operator.count("forebay_desired_replicas", function="default/chat") == 0)
