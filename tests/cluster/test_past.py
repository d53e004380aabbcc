"""What a status tells of the past: decisions are written when they change, cold starts and failures outlive us."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cluster.publishing import KEY, NOW, OBJECT, Rig, outcome, settled
from control.actors import until
from forebay_api.conditions import Condition, ConditionType, Reason, State, Status
from forebay_operator.cluster import body, past
from forebay_operator.cluster.publish import QUIET_START, SETTLED, Publisher
from forebay_operator.cluster.source import Invalid
from forebay_operator.control import Outcome
from forebay_operator.decide.decision import Input
from forebay_operator.decide.load import Source
from forebay_operator.decisions import Decision
from forebay_operator.timeline import ColdStarts

REQUESTS = Input("requests", 41.0, NOW - 2.0, Source.PROMETHEUS)
DECISION = Decision(NOW, 3, 2, "Mean", "3 replicas: 41 requests in flight and held", "maxReplicas", (REQUESTS,))
COLD_STARTS = ColdStarts(1, NOW - 60.0, 0.25, 3.5, 0.75)
STALLED = Condition(ConditionType.STALLED, Status.TRUE, Reason.ARTIFACT_NOT_FOUND, "file:///m/a: no such folder", 1)
LOAD_FAILED = Condition(ConditionType.LOADED, Status.FALSE, Reason.MODEL_LOAD_FAILED, "w1: out of memory", 1)
FINE = (replace(STALLED, status=Status.FALSE, reason=Reason.READY), replace(LOAD_FAILED, reason=Reason.NOT_LOADED))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig().running() as rig:
        yield rig


async def test_a_decision_is_written_with_its_numbers(rig: Rig) -> None:
    rig.publisher.take(outcome(scaling=DECISION), {})
    await until(lambda: rig.status())
    assert rig.status()["scaling"] == {
        "desired": 3,
        "current": 2,
        "reason": "Mean",
        "message": "3 replicas: 41 requests in flight and held",
        "limit": "maxReplicas",
        "inputs": [{"name": "requests", "value": 41.0, "sampledAt": "2023-11-14T22:13:18Z", "source": "Prometheus"}],
    }


async def test_numbers_and_words_alone_are_not_written_but_go_along(rig: Rig) -> None:
    rig.publisher.take(outcome(scaling=DECISION), {})
    await until(lambda: rig.status())
    for count in range(42, 50):
        given = (REQUESTS._replace(value=float(count), sampled_at=NOW + count),)
        newer = replace(DECISION, at=NOW + count, current=1, message=f"3 replicas: {count} requests", inputs=given)
        rig.publisher.take(outcome(scaling=newer), {})
        rig.watch()
    await settled(rig)
    assert rig.writes() == 1
    rig.publisher.take(outcome(State.SERVING, replicas=1, scaling=newer), {})
    await until(lambda: rig.writes() == 2)
    assert rig.status()["scaling"]["message"] == "3 replicas: 49 requests"
    assert rig.status()["scaling"]["inputs"][0]["value"] == 49.0


@pytest.mark.parametrize("change", [{"reason": "Panic"}, {"limit": ""}, {"desired": 4}])
async def test_another_decision_is_written_in_time(rig: Rig, change: dict[str, str | int]) -> None:
    rig.publisher.take(outcome(scaling=DECISION), {})
    await until(lambda: rig.status())
    rig.publisher.take(outcome(scaling=replace(DECISION, **change)), {})  # type: ignore[arg-type]  # one of them
    one = rig.publisher._objects[KEY]
    assert one.due is not None
    assert one.due - one.written == pytest.approx(body.QUIET)


async def test_numbers_that_change_do_not_hasten_what_is_refused(rig: Rig) -> None:
    """A thing is tried ever more slowly, though its numbers are other ones each time."""
    rig.publisher.take(outcome(scaling=DECISION), {})
    for times in range(1, 4):
        await until(lambda times=times: rig.writes() == times)
        rig.api.put({**OBJECT, "status": {**rig.status(), "state": "Failed"}})
        newer = replace(DECISION, inputs=(REQUESTS._replace(value=float(times)),))
        rig.publisher.take(outcome(scaling=newer), {})
        rig.watch()
    one = rig.publisher._objects[KEY]
    assert one.due is not None
    assert one.due - one.written == pytest.approx(body.BUSY * 8)


def test_more_than_the_schema_takes_is_cut() -> None:
    many = replace(DECISION, inputs=(REQUESTS,) * 20, message="m" * 5000, limit="")
    found = past.scaling(many)["scaling"]
    assert (len(found["inputs"]), len(found["message"]), "limit" in found) == (8, 1024, False)


def test_what_was_never_sampled_has_no_time() -> None:
    (given,) = past.scaling(replace(DECISION, inputs=(REQUESTS._replace(sampled_at=0.0),)))["scaling"]["inputs"]
    assert "sampledAt" not in given


async def test_cold_starts_are_counted_over_operators(rig: Rig) -> None:
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status())
    assert "coldStart" not in rig.status()
    rig.publisher.take(outcome(cold_starts=COLD_STARTS), {})
    await until(lambda: rig.writes() == 2)
    told = {
        "count": 1,
        "lastSeconds": 4.5,
        "lastTime": "2023-11-14T22:12:20Z",
        "breakdown": {"plan": 0.25, "load": 3.5, "firstToken": 0.75},
    }
    assert rig.status()["coldStart"] == told
    rig.watch()
    await rig.succeed()
    rig.publisher.take(outcome(State.SERVING), {})
    await until(lambda: rig.writes() == 3)
    assert rig.status()["coldStart"] == told  # what it did not see itself stays
    for ours in (1, 2):
        rig.publisher.take(outcome(State.SERVING, cold_starts=replace(COLD_STARTS, count=ours, at=NOW + ours)), {})
        await until(lambda ours=ours: rig.status()["coldStart"]["count"] == 1 + ours)
        rig.watch()
    await settled(rig)
    assert rig.writes() == 5


async def test_another_function_of_the_name_begins_anew(rig: Rig) -> None:
    rig.api.put({**OBJECT, "status": {"coldStart": {"count": 7}}})
    rig.watch()
    rig.publisher.take(outcome(), {})
    await until(lambda: rig.status().get("state"))
    rig.api.put({**OBJECT, "metadata": {**OBJECT["metadata"], "uid": "u2"}})
    rig.watch()
    rig.publisher.take(outcome(uid="u2", cold_starts=COLD_STARTS), {})
    await until(lambda: rig.status())
    assert rig.status()["coldStart"]["count"] == 1


async def test_the_last_failure_stays_with_the_time_at_which_it_began(rig: Rig) -> None:
    rig.publisher.take(outcome(more=FINE), {})
    await until(lambda: rig.status())
    assert "lastFailure" not in rig.status()
    rig.publisher.take(outcome(more=[STALLED]), {})
    await until(lambda: rig.writes() == 2)
    began = {
        "reason": "ArtifactNotFound",
        "message": "file:///m/a: no such folder",
        "time": "2023-11-14T22:13:20Z",
    }
    assert rig.status()["lastFailure"] == began
    rig.now += 60.0
    for more in ([STALLED, *FINE[1:]], FINE):  # it goes on, it is over
        rig.publisher.take(outcome(State.SERVING, more=more, replicas=len(more)), {})
        await until(lambda more=more: len(rig.status()["conditions"]) == 3)
        rig.watch()
        assert rig.status()["lastFailure"] == began
    await until(lambda: rig.status()["conditions"][1]["status"] == "False")
    rig.publisher.take(outcome(State.SERVING, more=[STALLED]), {})
    await until(lambda: rig.status()["lastFailure"]["time"] == "2023-11-14T22:14:20Z")  # the same again
    rig.publisher.take(outcome(State.SERVING, more=[LOAD_FAILED]), {})
    await until(lambda: rig.status()["lastFailure"]["reason"] == "ModelLoadFailed")


async def test_an_object_that_is_no_function_keeps_what_was(rig: Rig) -> None:
    rig.publisher.take(outcome(cold_starts=COLD_STARTS, scaling=DECISION), {})
    await until(lambda: rig.status())
    nothing = replace(outcome(), seen=replace(outcome().seen, functions=()))
    rig.publisher.take(nothing, {KEY: Invalid("u1", 4, "spec.model.uri: got 'x'")})
    await until(lambda: rig.status()["state"] == "Failed")
    assert rig.status()["coldStart"]["count"] == 1
    assert rig.status()["lastFailure"]["message"] == "spec.model.uri: got 'x'"
    assert "scaling" not in rig.status()


@pytest.mark.parametrize("reason", [Reason.METRICS_UNAVAILABLE, Reason.PROMETHEUS_TIMEOUT, Reason.NOT_YET_KNOWN])
async def test_a_new_operator_that_has_not_asked_yet_does_not_say_that_nothing_is_known(
    rig: Rig, reason: Reason
) -> None:
    sees = Condition(ConditionType.SCALING_ACTIVE, Status.TRUE, Reason.SCALING, "", 1)
    rig.publisher.take(outcome(more=[sees]), {})
    await until(lambda: rig.status())
    rig.watch()
    due = first_write(rig, outcome(more=[replace(sees, status=Status.FALSE, reason=reason)]))
    assert due == pytest.approx(SETTLED)


def first_write(rig: Rig, said: Outcome) -> float:
    """Seconds from the beginning of the next operator's term to its first write, if this is what it says."""
    later = Publisher(rig.api, lambda: rig.shown, wall=lambda: NOW)
    later.take(said, {})
    due = later._objects[KEY].due
    assert due is not None
    return due - later._began


async def test_a_new_operator_that_has_not_measured_yet_does_not_say_that_it_keeps_what_there_is(rig: Rig) -> None:
    rig.publisher.take(outcome(scaling=DECISION), {})
    await until(lambda: rig.status())
    rig.watch()
    blind = replace(DECISION, limit="blind")
    assert first_write(rig, outcome(scaling=blind)) == pytest.approx(SETTLED)
    assert first_write(rig, outcome(scaling=replace(DECISION, desired=4))) == pytest.approx(QUIET_START)
    rig.publisher.take(outcome(State.SERVING, scaling=blind), {})
    await until(lambda: rig.status()["scaling"]["limit"] == "blind")
    rig.watch()
    assert first_write(rig, outcome(scaling=replace(blind, desired=4))) == pytest.approx(QUIET_START)
