"""What a person reads of a pool."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from cluster_pools.stand import NOW, Stand
from cluster_pools.store import CREATED, node_body, pool_body
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.pool_view import LATE


@pytest.mark.parametrize(
    ("waiting", "ready", "stalled"),
    [
        ("ImagePullBackOff", "WorkersNotReady", "False"),
        ("ErrImagePull", "WorkersNotReady", "False"),
        ("InvalidImageName", "ImageMissing", "True"),
        ("ErrImageNeverPull", "ImageMissing", "True"),
        ("CrashLoopBackOff", "WorkersNotReady", "False"),
        ("ContainerCreating", "Progressing", "False"),
    ],
)
async def test_why_a_pod_does_not_run(stand: Stand, waiting: str, ready: str, stalled: str) -> None:
    await stand.settle()
    status = {
        "phase": "Pending",
        "containerStatuses": [
            {
                "state": {"waiting": {"reason": waiting, "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
            }
        ],
    }
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body.update(status=status))
    await stand.turn()
    assert stand.condition("Ready")[1] == ready
    assert stand.condition("Stalled")[0] == stalled
    if waiting == "CrashLoopBackOff":
        assert stand.condition("Ready")[2] == (
            "3 of 4 workers are ready; gpu-a-0: its worker ends again and again, the last time with exit code 2 (Error)"
        )


def gauges(pool: str) -> list[float | None]:
    shown = ("desired", "ready", "updated")
    return [REGISTRY.get_sample_value(f"forebay_pool_{what}_workers", {"pool": pool}) for what in shown]


async def test_prometheus_is_shown_how_many_there_are_and_nothing_of_a_pool_that_is_gone(stand: Stand) -> None:
    await stand.settle()
    assert gauges("gpu") == [4, 4, 4]
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body.update(status={"phase": "Pending"}))
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["spec"].update(image="worker:2"))
    await stand.turn()
    assert gauges("gpu")[:2] == [4, 3]
    assert gauges("gpu")[2] == 0
    stand.store.gone(KINDS.POOL, "gpu")
    stand.begin()  # by another term than that which showed it
    await stand.turn()
    assert gauges("gpu") == [None, None, None]


async def test_an_image_that_no_pod_can_pull_is_missing(stand: Stand) -> None:
    await stand.settle()
    waiting = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
    for name in stand.store.names(KINDS.POD):
        assert stand.condition("Stalled")[0] == "False"
        stand.store.change(KINDS.POD, name, lambda body: body.update(status=waiting))
        await stand.turn()
    said = "; ".join(f"gpu-{name}: its image cannot be pulled" for name in ("a-0", "a-1", "b-0", "b-1"))
    assert stand.condition("Stalled") == ("True", "ImageMissing", said)
    assert stand.condition("Reconciling")[0] == "False"


async def test_a_pod_that_does_not_end_is_spoken_of(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body["metadata"].update(deletionTimestamp=CREATED))
    _, due = await stand.turn()
    assert due == NOW + LATE
    assert stand.condition("Ready")[1:] == ("Progressing", "3 of 4 workers are ready")
    stand.now = due
    _, due = await stand.turn()
    assert due is None
    said = "3 of 4 workers are ready; gpu-a-0: told to end, and its node has not done so"
    assert stand.condition("Ready")[1:] == ("WorkersNotReady", said)


async def test_a_pod_that_no_node_takes_says_so(stand: Stand) -> None:
    await stand.settle()
    message = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2"
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body.update(status={"conditions": [unplaced]}))
    await stand.turn()
    said = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu"
    assert stand.condition("Ready")[2] == f"3 of 4 workers are ready; gpu-a-0: {said}"


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        ({"nodeSelector": {"gpu": "no"}}, "NoMatchingNodes", "no node has the labels of spec.nodeSelector"),
        ({"resourceName": "amd.com/gpu"}, "WorkersNotReady", "no node offers amd.com/gpu"),
        ({"gpusPerNode": 0}, "Ready", "gpusPerNode is 0"),
    ],
)
async def test_a_pool_without_workers_says_why(change: dict[str, Any], reason: str, said: str) -> None:
    stand = Stand()
    stand.store.put(pool_body(**change))
    stand.store.put(node_body("a"))
    await stand.turn()
    assert stand.condition("Ready")[1:] == (reason, said)
    assert stand.condition("Stalled")[0] == "False"


async def test_nodes_that_get_none_are_named(stand: Stand) -> None:
    stand.store.change(KINDS.NODE, "a", lambda body: body["spec"].update(unschedulable=True))
    stand.store.change(KINDS.NODE, "b", lambda body: body["status"]["conditions"][0].update(status="Unknown"))
    calls, _ = await stand.turn()
    assert [call for call in calls if call[1] == "Pod"] == []
    assert stand.condition("Ready")[2] == ("no node offers nvidia.com/gpu; node a is cordoned; node b is not ready")


async def test_many_reasons_are_cut_to_the_first_few(stand: Stand) -> None:
    for name in "cdefg":
        stand.store.put(node_body(name, unschedulable=True))
    await stand.turn()
    assert stand.condition("Ready")[2] == (
        "0 of 4 workers are ready; node c is cordoned; node d is cordoned; node e is cordoned; and 2 more"
    )
