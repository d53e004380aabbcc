"""The shell around decisions on pools: what is called, what is told, what is written, and that all of it is so once."""

from __future__ import annotations

from cluster_pools.stand import NOW, Stand
from cluster_pools.store import CREATED
from forebay_operator.cluster.api import ApiError, Conflict, Unreachable
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.pool_told import MADE
from forebay_operator.cluster.pools import REFUSED, RETRY, Pools
from forebay_operator.cluster.seen import ClusterSeen
from forebay_operator.cluster.template import PodSettings


async def test_claims_pods_and_one_status(stand: Stand) -> None:
    calls, due = await stand.turn()
    assert sorted(calls[:6]) == [
        ("create", "PersistentVolumeClaim", "gpu-a"),
        ("create", "PersistentVolumeClaim", "gpu-b"),
        ("create", "Pod", "gpu-a-0"),
        ("create", "Pod", "gpu-a-1"),
        ("create", "Pod", "gpu-b-0"),
        ("create", "Pod", "gpu-b-1"),
    ]
    assert calls[6:] == [("apply status", "WorkerPool", "gpu")]
    assert due == NOW + MADE
    assert stand.condition("Ready") == ("False", "Progressing", "0 of 4 workers are ready")
    assert stand.condition("Reconciling")[0] == "True"
    assert stand.condition("Stalled")[0] == "False"


async def test_in_the_end_nothing_is_called_any_more(stand: Stand) -> None:
    await stand.settle()
    assert await stand.turn() == ([], None)
    status = stand.status()
    assert {key: status[key] for key in ("selectedNodes", "desiredWorkers", "readyWorkers", "updatedWorkers")} == {
        "selectedNodes": 2,
        "desiredWorkers": 4,
        "readyWorkers": 4,
        "updatedWorkers": 4,
    }
    assert status["nodes"] == [{"name": "a", "desired": 2, "ready": 2}, {"name": "b", "desired": 2, "ready": 2}]
    assert stand.condition("Ready") == ("True", "Ready", "")
    assert stand.condition("Reconciling") == ("False", "Ready", "")


async def test_a_watch_that_lags_makes_nothing_twice(stand: Stand) -> None:
    before = stand.store.seen
    await stand.turn(before)
    assert await stand.turn(before) == ([("apply status", "WorkerPool", "gpu")], NOW + MADE)
    assert stand.status()["updatedWorkers"] == 4  # as told, though not shown yet
    assert await stand.turn(before) == ([], NOW + MADE)
    stand.store.gone(KINDS.POD, "gpu-a-0")
    stand.now += 60  # what was told is no longer believed
    calls, _ = await stand.turn(before)
    assert [call for call in calls if call[1] == "Pod" and call[2] == "gpu-a-0"] == [("create", "Pod", "gpu-a-0")]
    assert len(stand.store.names(KINDS.POD)) == 4


async def test_what_is_gone_before_the_watch_showed_it_is_made_again_though_nothing_happens(stand: Stand) -> None:
    before = stand.store.seen
    _, due = await stand.turn(before)
    assert due == NOW + MADE
    stand.store.gone(KINDS.POD, "gpu-a-0")  # made and deleted between two looks: nothing will ever be shown of it
    stand.now = due
    calls, _ = await stand.turn(before)
    assert ("create", "Pod", "gpu-a-0") in calls
    assert "gpu-a-0" in stand.store.names(KINDS.POD)


async def test_a_name_that_is_free_again_when_it_is_looked_at_is_taken_at_once(stand: Stand) -> None:
    """It was being deleted, say, when it was to be created."""
    await stand.settle()
    seen = stand.store.seen
    stand.store.vanishing.add("gpu-a-0")
    without = {name: body for name, body in seen.pods.items() if name != "gpu-a-0"}
    _, due = await stand.turn(ClusterSeen(seen.pools, seen.nodes, without, seen.claims))
    assert due == NOW + MADE
    assert [call for call in stand.store.calls if call[1] == "Pod"] == [
        ("create", "Pod", "gpu-a-0"),
        ("get", "Pod", "gpu-a-0"),
        ("create", "Pod", "gpu-a-0"),
    ]
    assert stand.condition("Stalled")[0] == "False"


async def test_a_watch_that_lags_deletes_no_second_one(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["spec"].update(image="worker:2"))
    before = stand.store.seen
    calls, _ = await stand.turn(before)
    assert [call[0] for call in calls if call[1] == "Pod"] == ["delete"]
    calls, _ = await stand.turn(before)
    assert [call for call in calls if call[1] == "Pod"] == []


async def test_another_operator_adopts_and_restarts_nobody(stand: Stand) -> None:
    await stand.settle()
    stand.begin()
    assert await stand.turn() == ([], None)


async def test_a_new_image_reaches_all_one_by_one(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["spec"].update(image="worker:2"))
    fewest = 4
    for _ in range(40):
        await stand.turn()
        pods = [stand.store.objects["Pod", name] for name in stand.store.names(KINDS.POD)]
        fewest = min(
            fewest, sum(bool(pod.get("status")) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
        )
        stand.store.run_pods()
    assert fewest == 3
    assert {
        stand.store.objects["Pod", name]["spec"]["containers"][0]["image"] for name in stand.store.names(KINDS.POD)
    } == {"worker:2"}
    assert stand.status()["updatedWorkers"] == 4
    assert ("gpu", "WorkerDeleted", "deleted worker gpu-a-0: the pool's template has changed", False) in stand.events


async def test_a_deleted_pod_comes_back(stand: Stand) -> None:
    await stand.settle()
    stand.store.gone(KINDS.POD, "gpu-b-1")
    calls, _ = await stand.turn()
    assert calls[0] == ("create", "Pod", "gpu-b-1")


async def test_a_pod_that_ended_is_told_of_buried_and_replaced(stand: Stand) -> None:
    await stand.settle()
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "disk pressure"}
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body.update(status=evicted))
    stand.now = NOW + 5
    calls, due = await stand.turn()
    assert [call for call in calls if call[1] == "Pod"] == []
    assert due == stand.now + 10
    assert ("gpu-a-0", "WorkerEnded", "it ended: Evicted: disk pressure", True) in stand.events
    assert stand.condition("Ready")[1:] == (
        "WorkersNotReady",
        "3 of 4 workers are ready; gpu-a-0: it ended: Evicted: disk pressure",
    )
    stand.now += 10
    assert (await stand.turn())[0][0] == ("delete", "Pod", "gpu-a-0")
    assert (await stand.turn())[0][0] == ("create", "Pod", "gpu-a-0")
    assert len([event for event in stand.events if event[1] == "WorkerEnded"]) == 1


async def test_an_invalid_pool_is_stalled_and_its_pods_are_left_alone(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["spec"].update(gpusPerNode=99))
    calls, due = await stand.turn()
    assert calls == [("apply status", "WorkerPool", "gpu")]
    assert due is None
    said = "spec.gpusPerNode: got 99, expected an integer from 0 to 16"
    assert stand.condition("Stalled") == ("True", "InvalidSpec", said)
    assert stand.condition("Ready") == ("False", "InvalidSpec", said)
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["spec"].update(gpusPerNode=2))
    await stand.turn()
    assert stand.condition("Ready")[0] == "True"


async def test_without_any_image_nothing_can_be_made(stand: Stand) -> None:
    stand.pools = Pools(stand.store, PodSettings("forebay-system", "fb", "o:1"), stand.tell)  # type: ignore[arg-type]
    assert (await stand.turn())[0] == [("apply status", "WorkerPool", "gpu")]
    assert stand.condition("Stalled")[1:] == (
        "InvalidSpec",
        "spec.image: got nothing, and the operator has no default",
    )


async def test_what_the_api_server_refuses_is_said_and_asked_again_later(stand: Stand) -> None:
    stand.store.failures["create", "Pod"] = ApiError(403, "Forbidden", 'pods "gpu-a-0" is forbidden: exceeded quota')
    assert (await stand.turn())[1] == NOW + RETRY
    said = '0 of 4 workers are ready; pods "gpu-a-0" is forbidden: exceeded quota'
    assert stand.condition("Ready") == ("False", "WorkersNotReady", said)
    assert [stand.condition(kind)[0] for kind in ("Reconciling", "Stalled")] == ["True", "False"]
    assert [event for event in stand.events if event[3]] == [
        ("gpu", "PodsRefused", 'pods "gpu-a-0" is forbidden: exceeded quota', True)
    ]
    del stand.store.failures["create", "Pod"]
    assert (await stand.turn())[0] == []  # not at every event
    stand.now += RETRY
    calls, due = await stand.turn()
    assert ("create", "Pod", "gpu-a-0") in calls
    assert due == stand.now + MADE
    assert stand.condition("Ready")[1:] == ("Progressing", "0 of 4 workers are ready")


async def test_what_is_refused_again_and_again_is_asked_for_less_and_less_often(stand: Stand) -> None:
    stand.store.failures["create", "Pod"] = ApiError(403, "Forbidden", "exceeded quota")
    waits, stalled = [], []
    for _ in range(6):
        await stand.turn()
        due = (await stand.turn())[1]  # what was told of claims is seen by now
        assert due is not None
        waits.append(due - stand.now)
        stalled.append(stand.condition("Stalled")[0])
        stand.now = due
    assert waits == [2.0, 4.0, 8.0, 16.0, REFUSED, REFUSED]
    assert stalled == ["False"] * 4 + ["True"] * 2
    assert stand.condition("Ready") == ("False", "PodsRefused", "exceeded quota")
    assert stand.condition("Reconciling")[0] == "False"


async def test_a_changed_pool_is_not_held_against(stand: Stand) -> None:
    stand.store.failures["create", "Pod"] = ApiError(422, "Invalid", "no such runtime class")
    await stand.turn()
    del stand.store.failures["create", "Pod"]
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["metadata"].update(generation=2))
    calls, _ = await stand.turn()
    assert ("create", "Pod", "gpu-a-0") in calls


async def test_an_api_server_that_is_away_is_asked_again(stand: Stand) -> None:
    stand.store.failures["create", "Pod"] = Unreachable(0, "Timeout", "no answer within 10 s")
    stand.store.failures["apply status", "WorkerPool"] = Unreachable(0, "Timeout", "no answer within 10 s")
    _, due = await stand.turn()
    assert due == NOW + RETRY
    stand.store.failures.clear()
    await stand.settle()
    assert stand.condition("Ready")[0] == "True"
    assert not [event for event in stand.events if event[3]]


async def test_a_status_that_may_not_be_written_ends_nothing(stand: Stand) -> None:
    stand.store.failures["apply status", "WorkerPool"] = ApiError(403, "Forbidden", "no")
    _, due = await stand.turn()
    assert due == NOW + MADE
    assert len(stand.store.names(KINDS.POD)) == 4
    assert (await stand.turn())[1] == NOW + REFUSED  # of that nothing is told


async def test_another_writer_of_the_status_is_overruled(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["status"].update(readyWorkers=99))
    assert (await stand.turn())[0] == [("apply status", "WorkerPool", "gpu")]
    assert stand.status()["readyWorkers"] == 4
    foreign = {"type": "Audited", "status": "True", "reason": "Fine", "lastTransitionTime": CREATED}
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["status"]["conditions"].append(foreign))
    assert (await stand.turn())[0] == []


async def test_a_condition_keeps_its_time_while_it_holds(stand: Stand) -> None:
    await stand.settle()
    before = [one["lastTransitionTime"] for one in stand.status()["conditions"]]
    stand.now += 100
    stand.begin()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["metadata"].update(generation=2))
    await stand.turn()
    assert [one["lastTransitionTime"] for one in stand.status()["conditions"]] == before
    assert [one["observedGeneration"] for one in stand.status()["conditions"]] == [2, 2, 2]


async def test_a_name_that_somebody_else_has_is_said(stand: Stand) -> None:
    stand.store.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gpu-a-0", "namespace": "x"}, "spec": {}})
    hidden = stand.store.seen
    await stand.turn(ClusterSeen(hidden.pools, hidden.nodes, {}, {}))
    said = "0 of 4 workers are ready; Pod gpu-a-0 exists already, and is not of this pool"
    assert stand.condition("Ready")[1:] == ("WorkersNotReady", said)


async def test_a_claim_that_a_person_made_meanwhile_is_used(stand: Stand) -> None:
    before = stand.store.seen
    stand.store.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "gpu-a", "namespace": "x"},
            "spec": {},
        }
    )
    await stand.turn(before)
    assert len(stand.store.names(KINDS.POD)) == 4


async def test_a_conflict_that_is_none_of_names_is_asked_again_later(stand: Stand) -> None:
    stand.store.failures["create", "Pod"] = Conflict(409, "Conflict", "a namespace is being terminated")
    assert (await stand.turn())[1] == NOW + RETRY
    said = "0 of 4 workers are ready; a namespace is being terminated"
    assert stand.condition("Ready")[1:] == ("WorkersNotReady", said)


async def test_a_pool_that_is_being_deleted_is_left_to_kubernetes(stand: Stand) -> None:
    await stand.settle()
    stand.store.change(KINDS.POOL, "gpu", lambda body: body["metadata"].update(deletionTimestamp=CREATED))
    stand.store.gone(KINDS.POD, "gpu-a-0")
    assert await stand.turn() == ([], None)


async def test_a_pool_that_went_meanwhile_gets_no_status(stand: Stand) -> None:
    before = stand.store.seen
    stand.store.gone(KINDS.POOL, "gpu")
    calls, due = await stand.turn(before)
    assert calls[-1] == ("apply status", "WorkerPool", "gpu")
    assert due == NOW + MADE  # of its pods


async def test_a_sick_device_is_told_once_and_its_recovery_too(stand: Stand) -> None:
    await stand.settle()
    stand.events.clear()
    sick = {"name": "nvidia.com/gpu", "resources": [{"resourceID": "GPU-1", "health": "Unhealthy"}]}
    containers = [{"name": "worker", "allocatedResourcesStatus": [sick]}]
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body["status"].update(containerStatuses=containers))
    assert (await stand.turn())[0] == [("apply status", "WorkerPool", "gpu")]
    assert stand.condition("Ready") == ("True", "Ready", "gpu-a-0: its device is unhealthy, it gets no work")
    await stand.turn()
    sick["resources"][0]["health"] = "Healthy"  # type: ignore[index]
    stand.store.change(KINDS.POD, "gpu-a-0", lambda body: body["status"].update(containerStatuses=containers))
    await stand.turn()
    assert stand.events == [
        ("gpu-a-0", "DeviceUnhealthy", "nvidia.com/gpu GPU-1 is unhealthy: the worker gets no work", True),
        ("gpu-a-0", "DeviceHealthy", "its device is healthy again: the worker gets work", False),
    ]
