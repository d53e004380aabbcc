"""Workers, gateways and nodes go away while answers stream: the same tokens, each once, and nothing is left over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

import pytest
from cluster.asking import answering
from cluster.companion import pipelines
from cluster.installed import Installed
from cluster.killing import kill
from cluster.kube import Body
from testbed import gpus
from testbed.cluster import Cluster

from cluster import kube

if TYPE_CHECKING:
    from local.reference import Reference

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

WORKERS_BACK = 240.0


async def serving(forebay: Installed, name: str, workers: int = 2) -> None:
    await asyncio.to_thread(forebay.settled, "worker", workers, WORKERS_BACK)
    await asyncio.to_thread(forebay.apply, name)
    await asyncio.to_thread(forebay.ready, name)


@pytest.mark.parametrize("grace", [0, None], ids=["at once", "with its grace"])
async def test_a_worker_is_deleted(bed: Cluster, forebay: Installed, real: Reference, grace: int | None) -> None:
    await serving(forebay, "alive")
    for pod in forebay.pods("worker"):
        name = pod["metadata"]["name"]
        async with answering(forebay, "alive", real, count=2) as answers:
            await answers[0].reaches(10)
            await asyncio.to_thread(kube.delete, "pod", name, forebay.namespace, wait=False, grace=grace)
        back = await asyncio.to_thread(forebay.settled, "worker", 2, WORKERS_BACK)
        assert name in {pod["metadata"]["name"] for pod in back}, "names are deterministic"


async def test_a_worker_is_killed_by_the_kernel(bed: Cluster, forebay: Installed, real: Reference) -> None:
    """As when memory is short: SIGKILL to all of its container."""
    await serving(forebay, "alive")
    for pod in forebay.pods("worker"):
        async with answering(forebay, "alive", real, count=2) as answers:
            await answers[0].reaches(10)
            kill(pod)
        again = await asyncio.to_thread(forebay.settled, "worker", 2, WORKERS_BACK)
        (same,) = [found for found in again if found["metadata"]["name"] == pod["metadata"]["name"]]
        assert same["metadata"]["uid"] == pod["metadata"]["uid"], "the kubelet restarts the container, nobody the pod"


async def test_a_kubelet_restarts(bed: Cluster, forebay: Installed, real: Reference) -> None:
    await serving(forebay, "alive")
    before = forebay.identities("worker")
    async with answering(forebay, "alive", real) as (answer,):
        await answer.reaches(10)
        await asyncio.to_thread(bed.daemons.stop, "node1/kubelet", signal.SIGKILL)
        await asyncio.sleep(1)
        bed.daemons.start_again("node1/kubelet")
        await asyncio.to_thread(bed.node("node1").wait)
    assert forebay.identities("worker") == before


@pytest.fixture
def plugged(bed: Cluster) -> Iterator[Cluster]:
    """All cables are in afterwards."""
    yield bed
    for node in bed.nodes:
        node.plug(connected=True)


@pytest.mark.parametrize("victim", ["node1", "node2"])
async def test_a_cable_is_pulled_and_put_back(
    plugged: Cluster, forebay: Installed, real: Reference, victim: str
) -> None:
    """Callers of the other node's gateway see a pause, if anything. The pods of the lost node are adopted later."""
    await serving(forebay, "alive")
    before = forebay.identities("worker")
    urls = forebay.gateways("alive", without=victim)
    async with answering(forebay, "alive", real, count=2, urls=urls) as answers:
        await answers[0].reaches(10)
        plugged.node(victim).plug(connected=False)
        kube.until(
            lambda: kube.get("node", victim), lambda node: kube.condition(node, "Ready") == "Unknown", "it is missed"
        )
    plugged.node(victim).plug(connected=True)
    await asyncio.to_thread(plugged.node(victim).wait)
    await asyncio.to_thread(forebay.settled, "worker", 2)
    assert forebay.identities("worker") == before
    async with answering(forebay, "alive", real):
        pass


async def test_a_gateway_is_killed(bed: Cluster, forebay: Installed, real: Reference) -> None:
    await serving(forebay, "alive")
    killed, kept = forebay.settled("gateway", 2)
    before = forebay.identities("gateway")
    (url,) = forebay.gateways("alive", without=killed["spec"]["nodeName"])
    async with answering(forebay, "alive", real, count=2, urls=(url,)) as answers:
        await answers[0].reaches(10)
        kill(killed)
    await asyncio.to_thread(forebay.settled, "gateway", 2)
    name = kept["metadata"]["name"]
    assert forebay.identities("gateway")[name] == before[name]


async def test_a_gpu_falls_ill(bed: Cluster, forebay: Installed, real: Reference) -> None:
    """Its worker leaves the pipelines, and what it answers goes on at the other; well again, it gets work again."""
    await asyncio.to_thread(forebay.settled, "worker", 2, WORKERS_BACK)
    await asyncio.to_thread(forebay.apply, "alive", scaling={"minReplicas": 2, "maxReplicas": 2})
    pods = {pod["metadata"]["name"]: pod for pod in forebay.pods("worker")}
    for name, pod in pods.items():
        await asyncio.to_thread(placed, forebay, set(pods))
        node = bed.node(pod["spec"]["nodeName"])
        device = await asyncio.to_thread(held, forebay, name)
        try:
            async with answering(forebay, "alive", real, count=4) as answers:
                for answer in answers:
                    await answer.reaches(10)
                gpus.set_health(node, device, healthy=False)
                await asyncio.to_thread(placed, forebay, pods.keys() - {name})
            await asyncio.to_thread(told, forebay, pod, "DeviceUnhealthy")
            async with answering(forebay, "alive", real):
                pass
            assert placements(forebay) == pods.keys() - {name}, "it stays without work"
        finally:
            gpus.set_health(node, device, healthy=True)
        await asyncio.to_thread(told, forebay, pod, "DeviceHealthy")
    await asyncio.to_thread(placed, forebay, set(pods))


def placements(forebay: Installed) -> set[str]:
    """Workers that the function's status places stages on."""
    return {place["worker"] for place in forebay.look("alive")["status"].get("placements", ())}


def placed(forebay: Installed, wanted: Set[str]) -> None:
    """Return once these workers and no others are in the status, and in what the operator knows of pipelines."""

    def look() -> tuple[list[str], list[str]]:
        stages = {stage["worker"] for pipeline in pipelines() for stage in pipeline["stages"]}
        return sorted(placements(forebay)), sorted(stages)

    names = sorted(wanted)
    kube.until(look, lambda found: found == (names, names), f"stages on {', '.join(names)}", WORKERS_BACK)


def told(forebay: Installed, pod: Body, reason: str) -> None:
    """Return once an event of the pod has this reason."""
    chosen = f"involvedObject.uid={pod['metadata']['uid']},reason={reason}"
    kube.until(
        lambda: kube.kubectl("get", "events", "-n", forebay.namespace, f"--field-selector={chosen}", "-o", "name"),
        bool,
        f"an event {reason} of {pod['metadata']['name']}",
    )


def held(forebay: Installed, name: str) -> int:
    """The number of the device that a worker holds."""

    def devices(pod: Body) -> list[Body]:
        statuses = pod["status"].get("containerStatuses", [{}])
        return [found for status in statuses for found in status.get("allocatedResourcesStatus", ())]

    pod = kube.until(lambda: kube.get("pod", name, forebay.namespace), devices, f"{name} names its device")
    return int(str(devices(pod)[0]["resources"][0]["resourceID"]).rpartition("-")[2])


async def test_a_node_is_drained_under_load(bed: Cluster, forebay: Installed, real: Reference) -> None:
    await serving(forebay, "alive")
    try:
        for node in ("node1", "node2"):
            async with answering(forebay, "alive", real, count=4) as answers:
                await answers[0].reaches(5)
                drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
                await asyncio.to_thread(kube.kubectl, *drain, limit=200)
            kube.kubectl("uncordon", node)
            await asyncio.to_thread(forebay.settled, "worker", 2, WORKERS_BACK)
    finally:
        for node in ("node1", "node2"):
            kube.kubectl("uncordon", node)
