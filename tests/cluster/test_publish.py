"""Status of functions: what is written, when, and what is done about writes that fail or are undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cluster.publishing import KEY, NOW, OBJECT, Rig, outcome, settled
from control.actors import until
from deciding.values import pipeline, snapshot, worker
from forebay_api.conditions import Condition, ConditionType, Reason, State, Status
from forebay_api.function import FunctionKey
from forebay_api.model import Epoch, Stage
from forebay_operator.cluster import body
from forebay_operator.cluster.api import ApiError, Unreachable
from forebay_operator.cluster.publish import Publisher
from forebay_operator.cluster.source import Invalid
from forebay_operator.control import Outcome
from forebay_operator.decide.seen import PipelinePhase, Snapshot


def test_placements_name_each_stage_of_live_pipelines() -> None:
    half = replace(worker("w0", resident=range(3)), node="n1")
    stages = (Stage("w0", 0, 2), Stage("w1", 3, 5))
    pipelines = (
        pipeline(*stages, counter=2),
        pipeline(Stage("w0", 0, 5), counter=1, phase=PipelinePhase.DRAINING),
        pipeline(Stage("w9", 0, 5), counter=3, phase=PipelinePhase.BROKEN),
        pipeline(Stage("w9", 0, 5), counter=4, backbone="other"),
    )
    seen = replace(snapshot([], [half]), pipelines=pipelines)
    found = [
        (entry["epoch"], entry["worker"], entry["stage"], entry["node"], entry["state"])
        for entry in body.Places.of(seen).stages["b"]
    ]
    assert found == [
        ("1.1", "w0", 0, "n1", "Draining"),
        ("1.2", "w0", 0, "n1", "Serving"),
        ("1.2", "w1", 1, "", "Loading"),
    ]
    assert body.Places.of(seen).stages.get("") is None


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig().running() as rig:
        yield rig


async def test_written_once_and_not_again(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    for _ in range(3):
        rig.publisher.take(outcome(), {})
        rig.watch()
    await settled(rig)
    assert rig.writes() == 1
    assert rig.status()["url"] == rig.status()["address"]["url"] == "https://f.ns.example.com"


async def test_changes_in_quick_succession_are_few_writes(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    for count in range(1, 20):
        rig.publisher.take(outcome(State.SERVING, replicas=count), {})
        await asyncio.sleep(0)
    await until(lambda: rig.status()["readyReplicas"] == 19)
    assert rig.writes() == 2


async def test_words_alone_wait_longer(rig: Rig) -> None:
    rig.publisher.take(outcome(message="1 request waits"), {})
    await until(lambda: rig.status())
    rig.publisher.take(outcome(message="2 requests wait"), {})
    one = rig.publisher._objects[KEY]
    assert one.due is not None
    assert one.due - one.written == pytest.approx(body.QUIET)


async def test_a_condition_keeps_its_time_until_it_flips(rig: Rig) -> None:
    """Also from the operator before: the time is the stored one."""
    stored = {"type": "Ready", "status": "True", "reason": "Old", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    rig.api.put({**OBJECT, "status": {"conditions": [stored]}})
    rig.watch()
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.writes() == 1)
    assert rig.status()["conditions"][0]["reason"] == "Ready"
    assert rig.status()["conditions"][0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    rig.publisher.take(outcome(ready=Status.FALSE, reason="Suspended"), {})
    await until(lambda: rig.writes() == 2)
    assert rig.status()["conditions"][0]["lastTransitionTime"] == "2023-11-14T22:13:20Z"


async def test_a_late_watch_undoes_nothing(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    rig.publisher.look({("ns", "f")})  # it still shows the object without a status
    await settled(rig)
    assert rig.writes() == 1


async def test_what_another_writer_did_is_put_right(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    rig.api.put({**OBJECT, "status": {**rig.status(), "state": "Failed", "theirs": 1}})
    rig.watch()
    await until(lambda: rig.writes() == 2)
    assert rig.status()["state"] == "Idle"


async def test_who_does_it_again_and_again_is_answered_ever_more_slowly(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    for times in range(1, 4):
        await until(lambda times=times: rig.writes() == times)
        rig.api.put({**OBJECT, "status": {**rig.status(), "state": "Failed"}})
        rig.watch()
    one = rig.publisher._objects[KEY]
    assert one.due is not None
    assert one.due - one.written == pytest.approx(body.BUSY * 8)


async def test_a_write_that_fails_is_made_again(rig: Rig) -> None:
    rig.api.faults = [Unreachable(0, "Unreachable", "refused"), Unreachable(503, "ServiceUnavailable", "later")]
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    assert rig.writes() == 3


async def test_many_are_all_written(rig: Rig) -> None:
    many = {}
    for number in range(100):
        name = f"m{number}"
        rig.api.put({**OBJECT, "metadata": {**OBJECT["metadata"], "name": name, "uid": name}})
        many[FunctionKey("ns", name)] = Invalid(name, 1, "wrong")
    rig.publisher.take(outcome(), many)
    await until(lambda: rig.writes() == 101)


async def test_one_that_is_refused_hinders_no_other(rig: Rig) -> None:
    other = FunctionKey("ns", "g")
    rig.api.put({**OBJECT, "metadata": {**OBJECT["metadata"], "name": "g", "uid": "u2"}})
    rig.api.faults = [ApiError(422, "Invalid", "status.state: Unsupported value")]
    rig.publisher.take(outcome(), {other: Invalid("u2", 3, "spec.model.uri: wrong")})
    await until(lambda: rig.api.objects["LLMFunction", "ns", "g"].get("status") and rig.status())


async def test_an_object_that_is_gone_is_left_alone(rig: Rig) -> None:
    rig.api.objects.clear()
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.writes() == 1)
    rig.publisher.take(outcome(State.SERVING), {})
    rig.publisher.look({("ns", "f")})
    await settled(rig)
    assert rig.writes() == 1


async def test_made_anew_under_its_name_it_is_another(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    rig.api.put({**OBJECT, "metadata": {**OBJECT["metadata"], "uid": "u2"}})
    rig.watch()
    await settled(rig)
    assert rig.writes() == 1  # what is wanted is about u1
    rig.publisher.take(outcome(uid="u2"), {})
    await until(lambda: rig.status())
    assert rig.api.calls[-1][1]["metadata"]["uid"] == "u2"


async def test_an_object_that_is_no_function_is_stalled(rig: Rig) -> None:
    nothing = replace(outcome(), seen=Snapshot((), {}, (), (), Epoch(1, 1)))
    rig.publisher.take(nothing, {KEY: Invalid("u1", 4, "spec.model.uri: got 'x'")})
    await until(lambda: rig.status())
    found = {entry["type"]: entry for entry in rig.status()["conditions"]}
    assert set(found) == {kind.value for kind in ConditionType}
    assert (found["Stalled"]["status"], found["Stalled"]["reason"]) == ("True", Reason.INVALID_SPEC)
    assert found["Ready"]["status"] == "False"
    assert found["Ready"]["message"] == "spec.model.uri: got 'x'"
    assert (rig.status()["state"], rig.status()["observedGeneration"]) == ("Failed", 4)


@pytest.mark.parametrize(
    "unheard",
    [
        outcome(ready=Status.UNKNOWN, reason="NoWorker"),
        outcome(ready=Status.FALSE, reason="InsufficientGPUs"),
        outcome(more=[Condition(ConditionType.RESOURCES_AVAILABLE, Status.FALSE, "InsufficientGPUs")]),
    ],
)
async def test_at_the_beginning_of_a_term_nothing_known_is_not_written_over_what_was(
    rig: Rig, unheard: Outcome
) -> None:
    rig.publisher.take(outcome(State.SERVING, replicas=1), {})
    await until(lambda: rig.status())
    rig.watch()
    later = Publisher(rig.api, lambda: rig.shown, wall=lambda: NOW)
    later.take(unheard, {})
    due = later._objects[KEY].due
    assert due is not None
    assert due - later._began == pytest.approx(11.0)
    later.take(outcome(State.SERVING, replicas=2), {})
    due = later._objects[KEY].due
    assert due is not None
    assert due - later._began == pytest.approx(1.5)
