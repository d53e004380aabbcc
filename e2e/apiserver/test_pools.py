"""Worker pods that vanish: deleted at once, again and again, while watches work, are cut, and lie."""

from __future__ import annotations

import json
import random
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plane
import pytest
from operators import LEASE, NAMESPACE, POOLS, Operator, until
from wire import Wire, wired

NODES, EACH = ("east", "west"), 4
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
WORKERS = f"{PODS}?labelSelector=app.kubernetes.io/component%3Dworker"
BACK = 20.0
"""Seconds in which what is gone is there again: far less than the operator waits for anything that went wrong."""
LIED_TO = 60.0
"""The same where a watch says nothing and seems to be well: comparing with what there is shows it."""

pytestmark = pytest.mark.skipif(
    not plane.available() or not (plane.BINARIES / "helm").exists(), reason="no kube-apiserver or helm: `make testbed`"
)


@pytest.fixture(scope="module")
def api(api: plane.Plane) -> plane.Plane:
    """With nodes."""
    for name in NODES:
        api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"gpu": "yes"}}})
        untainted = {"spec": {"taints": None}}  # a new node is said to be not ready
        api.request("PATCH", f"/api/v1/nodes/{name}", untainted, "application/merge-patch+json")
        ready(api, name)
    return api


def ready(api: plane.Plane, name: str, well: bool = True) -> None:
    """No kubelet says so: this does."""
    condition = {"type": "Ready", "status": str(well), "lastTransitionTime": "2026-01-01T00:00:00Z"}
    resources = {"nvidia.com/gpu": str(EACH)}
    status = {"conditions": [condition], "capacity": resources, "allocatable": resources}
    api.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, "application/merge-patch+json")


@pytest.fixture
def wire(api: plane.Plane) -> Iterator[Wire]:
    with wired(api.port) as wire:
        yield wire


@pytest.fixture
def operator(api: plane.Plane, wire: Wire, tmp_path: Path) -> Iterator[Operator]:
    """With a pool of eight, all of which exist."""
    config = json.loads(api.operator_kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    pool = {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "pool"},
        "spec": {"nodeSelector": {"gpu": "yes"}, "image": "none"},
    }
    api.request("POST", POOLS, pool)
    operator = Operator(api, "op-a", KUBECONFIG=str(kubeconfig)).start()
    try:
        until(lambda: whole(api))
        yield operator
    finally:
        operator.end(signal.SIGKILL)
        api.request("DELETE", f"{POOLS}/pool")
        for name in living(api):
            delete(api, name)
        try:
            api.request("DELETE", LEASE)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


def living(api: plane.Plane) -> dict[str, str]:
    """Uids by name."""
    pods = api.request("GET", WORKERS)["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def whole(api: plane.Plane) -> bool:
    return len(living(api)) == len(NODES) * EACH


def delete(api: plane.Plane, name: str) -> None:
    """At once, as `kubectl delete --force --grace-period=0` does."""
    try:
        api.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


def bind(api: plane.Plane, name: str) -> None:
    """As the scheduler does: from then on a kubelet ends it, and a grace counts."""
    target = {"apiVersion": "v1", "kind": "Node", "name": name.removeprefix("pool-").rpartition("-")[0]}
    api.request("POST", f"{PODS}/{name}/binding", {"metadata": {"name": name}, "target": target})


def storm(api: plane.Plane, rounds: int, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """Delete some of those that are there, and those that have just come, as fast as calls go."""
    chance = random.Random(rounds)
    for number in range(rounds):
        there = sorted(living(api))
        for name in chance.sample(there, min(len(there), chance.randint(1, 8))):
            delete(api, name)
        time.sleep(chance.choice((0.0, 0.02, 0.1, 0.3)))
        if number % 10 == 9:
            meanwhile()


def settled(api: plane.Plane, operator: Operator, limit: float = BACK) -> None:
    """All are there within ``limit``, and are left alone."""
    began = time.monotonic()
    until(lambda: whole(api), limit)
    print(f"all are back after {time.monotonic() - began:.1f} s")
    kept = living(api)
    time.sleep(7.0)  # longer than anything told is believed
    assert living(api) == kept
    assert operator.count("forebay_duty_errors_total") == 0


def test_deleted_at_once_again_and_again(api: plane.Plane, operator: Operator) -> None:
    storm(api, 60)
    settled(api, operator)


@pytest.mark.fault
def test_deleted_at_once_while_watches_are_cut(api: plane.Plane, operator: Operator, wire: Wire) -> None:
    storm(api, 60, wire.cut)
    settled(api, operator)


@pytest.mark.fault
def test_deleted_at_once_while_the_api_server_restarts(api: plane.Plane, operator: Operator) -> None:
    def restart() -> None:
        api.compact()
        api.stop()
        api.start()

    storm(api, 30, restart)
    settled(api, operator)


def test_deleted_at_once_after_it_was_told_to_end(api: plane.Plane, operator: Operator) -> None:
    """With a grace first, which nobody here keeps: its name is taken until then."""
    for _ in range(10):
        before = living(api)
        for name in before:
            bind(api, name)
            api.request("DELETE", f"{PODS}/{name}?gracePeriodSeconds=60")
        assert living(api) == before
        for name in before:
            delete(api, name)
        until(lambda before=before: whole(api) and not set(living(api).values()) & set(before.values()), BACK)
    settled(api, operator)


@pytest.mark.fault
def test_a_watch_that_says_nothing_any_more(api: plane.Plane, operator: Operator, wire: Wire) -> None:
    """As when the far side of a connection is lost: nobody closes it, and no byte comes."""
    wire.fall_silent()
    for name in sorted(living(api))[:3]:
        delete(api, name)
    settled(api, operator, LIED_TO)


@pytest.mark.fault
def test_a_node_that_is_back_while_a_watch_says_nothing(api: plane.Plane, operator: Operator, wire: Wire) -> None:
    """Nothing comes and nothing goes, so that only its version shows it."""
    ready(api, "east", well=False)
    until(lambda: "NotReady" in json.dumps(condition(api)) or "is not ready" in json.dumps(condition(api)))
    wire.fall_silent()
    ready(api, "east")
    delete(api, "pool-east-0")
    settled(api, operator, LIED_TO)


def condition(api: plane.Plane) -> Any:
    return api.request("GET", f"{POOLS}/pool").get("status")
