"""The operator and the API server go away: nobody who calls a function notices, and no worker is restarted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cluster.asking import PROMPT, TOKENS, answering
from cluster.installed import Installed
from cluster.killing import halt, kill
from testbed.cluster import Cluster
from testbed.control import wait_for_proxy

from cluster import kube, metrics

if TYPE_CHECKING:
    from local.reference import Reference

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

API_AWAY = 60.0
TAKE_OVER, CLEAN_TAKE_OVER = 12.0, 3.0
"""Seconds until a standby leads: after a kill, after a stop. kubectl's own time to look is added."""
LOOK = 2.0


async def ready(forebay: Installed, name: str) -> None:
    await asyncio.to_thread(forebay.apply, name)
    await asyncio.to_thread(forebay.ready, name)


def new_leader(forebay: Installed, old: str, limit: float) -> str:
    return kube.until(forebay.leader, lambda leader: leader not in ("", old), "another operator leads", limit)


@pytest.mark.parametrize("pieces", [1, 20], ids=["loading", "serving"])
async def test_the_operator_is_killed(bed: Cluster, forebay: Installed, real: Reference, pieces: int) -> None:
    await ready(forebay, "survivor")
    before = forebay.identities("worker")
    async with answering(forebay, "survivor", real) as (answer,):
        await answer.reaches(pieces)
        leader = forebay.leader()
        kill(forebay.leading())
    await asyncio.to_thread(new_leader, forebay, leader, TAKE_OVER + LOOK)
    await asyncio.to_thread(forebay.settled, "operator", 2)
    await asyncio.to_thread(decided_on, forebay, "survivor")
    assert forebay.identities("worker") == before
    assert not told(forebay, "survivor", "ScaledToZero"), "who has heard of no worker yet takes nobody for idle"


def decided_on(forebay: Installed, name: str) -> None:
    """Return once the operator that acts now has made a pass over this function."""
    changed = {"spec": {"timeoutSeconds": forebay.look(name)["spec"]["timeoutSeconds"] + 1}}
    kube.kubectl("patch", "llmfn", name, "-n", forebay.home, "--type=merge", "-p", json.dumps(changed))
    kube.until(
        lambda: forebay.look(name),
        lambda body: body["status"]["observedGeneration"] == body["metadata"]["generation"],
        f"{name} is looked at",
    )


def told(forebay: Installed, name: str, reason: str) -> list[str]:
    """Events of a function, by name."""
    chosen = f"involvedObject.uid={forebay.look(name)['metadata']['uid']},reason={reason}"
    return kube.kubectl("get", "events", "-n", forebay.home, f"--field-selector={chosen}", "-o", "name").split()


async def test_the_operator_is_killed_while_a_request_is_held(
    bed: Cluster, forebay: Installed, real: Reference
) -> None:
    """At zero. It stands still before the request comes: else it would have planned before it is killed."""
    await ready(forebay, "waiting")
    before = forebay.identities("worker")
    real.answer(PROMPT, TOKENS, chat=False)  # what is expected, worked out before the lease runs
    leading = forebay.leading()
    halt(leading)
    async with answering(forebay, "waiting", real) as (answer,):
        await asyncio.to_thread(
            kube.until, lambda: sum(held(forebay, "waiting")), lambda count: count == 1, "a gateway holds it"
        )
        kill(leading)
        assert not answer.got
    await asyncio.to_thread(forebay.settled, "operator", 2)
    assert forebay.identities("worker") == before


async def test_the_standby_takes_over_at_once_after_a_clean_stop(bed: Cluster, forebay: Installed) -> None:
    leader = forebay.leader()
    terms = kube.get("lease", f"{forebay.name}-operator", forebay.namespace)["spec"]["leaseTransitions"]
    kube.delete("pod", leader.partition("_")[0], forebay.namespace, wait=False)
    new_leader(forebay, leader, CLEAN_TAKE_OVER + LOOK)
    lease = kube.get("lease", f"{forebay.name}-operator", forebay.namespace)
    assert lease["spec"]["leaseTransitions"] > terms, "the leader's term grows"
    forebay.settled("operator", 2)


async def test_the_standby_takes_over_after_a_kill(bed: Cluster, forebay: Installed) -> None:
    leader = forebay.leader()
    kill(forebay.leading())
    new_leader(forebay, leader, TAKE_OVER + LOOK)
    forebay.settled("operator", 2)


def scaled(forebay: Installed, replicas: int) -> None:
    """Return once there are so many operators, and none that are about to end."""
    name = f"{forebay.name}-operator"
    kube.kubectl("scale", f"deployment/{name}", "-n", forebay.namespace, f"--replicas={replicas}")
    chosen = f"app.kubernetes.io/instance={forebay.name},app.kubernetes.io/component=operator"
    kube.until(
        lambda: kube.listed("pods", forebay.namespace, chosen), lambda pods: len(pods) == replicas, f"{replicas} {name}"
    )
    forebay.settled("operator", replicas)


@pytest.fixture
def two_operators(forebay: Installed) -> Iterator[Installed]:
    """There are as many as before afterwards."""
    yield forebay
    scaled(forebay, 2)


async def test_each_gateway_serves_without_any_operator(
    bed: Cluster, two_operators: Installed, real: Reference
) -> None:
    forebay = two_operators
    await ready(forebay, "warm")
    async with answering(forebay, "warm", real):
        pass
    await asyncio.to_thread(forebay.state, "warm", "Serving")
    before = forebay.identities("worker")
    await asyncio.to_thread(scaled, forebay, 0)
    async with answering(forebay, "warm", real, count=4, urls=forebay.gateways("warm")):
        pass
    assert forebay.identities("worker") == before


async def test_each_gateway_holds_until_an_operator_is_back(
    bed: Cluster, two_operators: Installed, real: Reference
) -> None:
    forebay = two_operators
    await ready(forebay, "cold")
    await asyncio.to_thread(scaled, forebay, 0)
    async with answering(forebay, "cold", real, count=2, urls=forebay.gateways("cold")) as answers:
        await asyncio.to_thread(
            kube.until, lambda: held(forebay, "cold"), lambda counts: counts == [1, 1], "each holds one"
        )
        assert not any(answer.got for answer in answers)
        await asyncio.to_thread(scaled, forebay, 2)


def held(forebay: Installed, name: str) -> list[float]:
    """How many requests each gateway holds for a function."""
    found = [
        metrics.of(pod, metrics.GATEWAY, "forebay_queue_depth", function=f"{forebay.home}/{name}")
        for pod in forebay.pods("gateway")
    ]
    return [sum(series.values()) for series in found]


async def test_each_gateway_wakes_a_function(bed: Cluster, forebay: Installed, real: Reference) -> None:
    await asyncio.to_thread(forebay.settled, "gateway", 2)
    for number in range(2):
        name = f"woken-{number}"
        await ready(forebay, name)
        async with answering(forebay, name, real, urls=forebay.gateways(name)[number : number + 1]):
            pass


@pytest.fixture
def stoppable(bed: Cluster) -> Iterator[Cluster]:
    """Its API server may be stopped. Kubernetes' own parts find back to it in their own time, which may be minutes and
    is not what is tested here: they begin anew. So the next test has endpoints, is scheduled, its pods end when they
    are told to, and they reach the API server again soon after it was away: until a proxy hears that it is back, their
    calls are rejected."""
    yield bed
    ended = datetime.now(UTC)
    places = (bed.control, *bed.nodes)
    names = ["kube-controller-manager", "kube-scheduler", *(f"{place.name}/kube-proxy" for place in places)]
    for name in (*names, *(f"{node.name}/kubelet" for node in bed.nodes)):
        bed.daemons.stop(name)
        bed.daemons.start_again(name)
    bed.control.wait_for_controllers()
    for place in places:
        wait_for_proxy(place)
    for node in bed.nodes:
        kube.until(lambda name=node.name: renewed(name), lambda when: when > ended, f"the new kubelet of {node.name}")
        node.wait()


def renewed(node: str) -> datetime:
    """When a kubelet last reached the API server."""
    return datetime.fromisoformat(kube.get("lease", node, "kube-node-lease")["spec"]["renewTime"])


async def test_the_api_server_stops_for_a_minute(stoppable: Cluster, forebay: Installed, real: Reference) -> None:
    bed = stoppable
    await ready(forebay, "steady")
    before = forebay.identities("worker")
    url = forebay.url("steady")
    async with answering(forebay, "steady", real) as (answer,):
        await answer.reaches(1)
        await asyncio.to_thread(bed.daemons.stop, "kube-apiserver")
        away_until = time.monotonic() + API_AWAY
        try:
            while time.monotonic() < away_until:  # new calls too
                async with answering(forebay, "steady", real, urls=(url,)):
                    pass
        finally:
            bed.daemons.start_again("kube-apiserver")
            await asyncio.to_thread(bed.daemons.wait, "kube-apiserver", bed.control.ready)
    assert forebay.identities("worker") == before
    await ready(forebay, "afterwards")  # it sees changes again


async def test_another_writer_of_the_status_is_overruled(forebay: Installed) -> None:
    await ready(forebay, "disputed")
    wrong = '{"status": {"state": "Failed", "readyReplicas": 7}}'
    patch = ("patch", "llmfn", "disputed", "-n", forebay.home, "--subresource=status", "--type=merge", "-p", wrong)
    kube.kubectl(*patch, "--field-manager=somebody-else")
    kube.until(
        lambda: forebay.look("disputed"),
        lambda body: (body["status"]["state"], body["status"]["readyReplicas"]) == ("Idle", 0),
        "the status is the operator's again",
    )


async def test_watches_begin_anew_after_410_gone(stoppable: Cluster, forebay: Installed) -> None:
    """The history that watches would go on from is compacted away while the API server is down."""
    bed = stoppable
    await ready(forebay, "early")
    revision = int(forebay.look("early")["metadata"]["resourceVersion"])
    for number in range(5):
        kube.kubectl("annotate", "llmfn/early", "-n", forebay.home, f"count={number}", "--overwrite")
    latest = int(forebay.look("early")["metadata"]["resourceVersion"])
    assert latest > revision
    bed.daemons.stop("kube-apiserver")
    compact = f'{{"revision": {latest}, "physical": true}}'
    bed.control.run("curl", "-sf", "-m", "10", "-d", compact, "http://127.0.0.1:2379/v3/kv/compaction")
    bed.daemons.start_again("kube-apiserver")
    bed.daemons.wait("kube-apiserver", bed.control.ready)
    await ready(forebay, "late")
    forebay.remove("early")
    await ready(forebay, "later")
