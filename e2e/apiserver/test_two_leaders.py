"""A leader that is frozen for longer than its lease lasts: another one leads, and the old one undoes nothing of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import plane
import pytest
from operators import FUNCTIONS, POOLS, Operator, condition, status, until
from test_operator import apply, start
from test_pools import NODES, WORKERS, delete, living, ready

from control.actors import Worker, checkpoint

URI = "file:///models/a"
WRITES = ("apply", "create", "delete", "patch", "replace")
MERGE = "application/merge-patch+json"

__all__ = ["start"]

pytestmark = pytest.mark.skipif(
    not plane.available() or not (plane.BINARIES / "helm").exists(), reason="no kube-apiserver or helm: `make testbed`"
)


@pytest.fixture(scope="module")
def pooled(api: plane.Plane) -> Iterator[plane.Plane]:
    """With two nodes, and a pool of one worker on each."""
    for name in NODES:
        api.request("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"gpu": "yes"}}})
        api.request("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE)
        ready(api, name)
    spec = {"nodeSelector": {"gpu": "yes"}, "image": "none", "gpusPerNode": 1}
    head = {"apiVersion": "forebay.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "pool"}}
    api.request("POST", POOLS, {**head, "spec": spec})
    yield api
    api.request("DELETE", f"{POOLS}/pool")
    for name in living(api):
        delete(api, name)


def sized(api: plane.Plane, each: int) -> None:
    """The pool has so many workers a node, and they are there."""
    api.request("PATCH", f"{POOLS}/pool", {"spec": {"gpusPerNode": each}}, MERGE)
    until(lambda: len(living(api)) == each * len(NODES))


def written(operator: Operator) -> float:
    """Its calls that change something, whatever became of them; those for the lease are not counted."""
    calls = sum(operator.count("forebay_api_requests_total", verb=verb) for verb in WRITES)
    return calls - operator.count("forebay_api_requests_total", kind="leases", verb="replace")


async def quiet(operator: Operator) -> float:
    """What it has written, once it writes nothing more."""
    before = -1.0
    while before != (before := written(operator)):
        await asyncio.sleep(3)
    return before


def stored(api: plane.Plane) -> dict[str, str]:
    """Versions of all that operators write."""
    found = [item["metadata"] for path in (FUNCTIONS, POOLS, WORKERS) for item in api.request("GET", path)["items"]]
    return {metadata["uid"]: metadata["resourceVersion"] for metadata in found}


def runs_on(api: plane.Plane, name: str) -> set[str]:
    return {placement["worker"] for placement in status(api, name).get("placements") or ()}


async def attached(api: plane.Plane, operator: Operator, name: str) -> Worker:
    worker = Worker(name, {URI: checkpoint("aaaa", URI)})
    worker.report.pod_uid = living(api)[name]
    await worker.attach(f"127.0.0.1:{operator.grpc}")
    return worker


async def test_who_was_frozen_past_its_lease_undoes_nothing(pooled: plane.Plane, start: Any) -> None:
    api = pooled
    first = start("op-a")
    await asyncio.to_thread(until, lambda: len(living(api)) == len(NODES))
    workers = [await attached(api, first, "pool-east-0")]
    try:
        apply(api, "served", replicas=1, pool="pool")
        apply(api, "deleted", suspend=True)
        await asyncio.to_thread(until, lambda: runs_on(api, "served") == {"pool-east-0"})
        second = start("op-b")
        await asyncio.to_thread(until, second.ready)
        before = await quiet(first)
        first.send(signal.SIGSTOP)
        await asyncio.to_thread(until, second.leads)
        workers.append(await attached(api, second, "pool-west-0"))
        await asyncio.to_thread(until, lambda: runs_on(api, "served") == {"pool-west-0"})
        workers[0].report.term = 2  # as if the new leader had reached it: it is still connected to the old one
        for each in (2, 1):
            await asyncio.to_thread(sized, api, each)
        api.request("DELETE", f"{FUNCTIONS}/deleted")
        apply(api, "new", suspend=True)
        await asyncio.to_thread(until, lambda: condition(api, "new", "Ready"))
        await quiet(second)
        kept, told = stored(api), len(workers[0].told)
        first.send(signal.SIGCONT)
        await asyncio.to_thread(until, lambda: "steps down: another one leads" in first.logged())
        await asyncio.to_thread(until, lambda: first.shows(first.grpc) is grpc.StatusCode.UNAVAILABLE)
        assert await quiet(first) == before
        assert stored(api) == kept
        assert len(workers[0].told) == told
        assert (first.leads(), second.leads()) == (False, True)
    finally:
        for worker in workers:
            await worker.die()
