"""Events: which changes are told, in which words, how often, and what happens when they cannot be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.publishing import KEY, NOW, OBJECT, outcome
from cluster.stored import Stored
from control.actors import until
from forebay_api.conditions import Condition, ConditionType, Reason, State, Status
from forebay_operator.cluster import events
from forebay_operator.cluster.api import ApiError
from forebay_operator.cluster.events import Events
from forebay_operator.cluster.pending import Subject
from forebay_operator.cluster.state_events import change
from forebay_operator.control import Outcome
from forebay_operator.decisions import Decision
from forebay_operator.status import FunctionStatus

SUBJECT = Subject("forebay.dev/v1alpha1", "LLMFunction", "ns", "f", "u1")
POOL = {"apiVersion": "forebay.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"namespace": "ns", "name": "p"}}


def status(state: State, reason: str = "", message: str = "") -> FunctionStatus:
    return FunctionStatus(state, reason, message, 1, 2, "", (), None)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", State.IDLE, None),
        ("Idle", State.IDLE, None),
        ("Queued", State.IDLE, None),
        ("Serving", State.IDLE, "ScaledToZero"),
        ("Draining", State.IDLE, "ScaledToZero"),
        ("Failed", State.IDLE, "Recovered"),
        ("Idle", State.QUEUED, "RequestsWaiting"),
        ("Queued", State.LOADING, "Loading"),
        ("Loading", State.PIPELINED, "ServingPipelined"),
        ("Pipelined", State.SERVING, "Serving"),
        ("Serving", State.DRAINING, None),
        ("Idle", State.SUSPENDED, "Suspended"),
        ("", State.FAILED, "ArtifactNotFound"),
    ],
)
def test_which_changes_are_told(before: str, after: State, told: str | None) -> None:
    found = change(SUBJECT, before, status(after, "ArtifactNotFound"))
    assert (found.reason if found else None) == told
    if found:
        assert found.note
        assert found.warning == (after is State.FAILED)


@pytest.fixture
async def teller(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Events, Stored]]:
    monkeypatch.setattr(events, "APART", 0.01)
    api = Stored()
    told = Events(api, "op-a", dict, clock=lambda: 1_700_000_000.0)
    task = asyncio.ensure_future(told.run())
    yield told, api
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_same_again_is_counted(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    for _ in range(3):
        told.about(POOL, "PodsRefused", "forbidden: quota", True)
    told.about(POOL, "PodsRefused", "forbidden: another quota", True)
    await until(lambda: len(api.calls) == 4)
    assert [verb for verb, _ in api.calls] == ["create", "patch", "patch", "create"]
    first = api.calls[0][1]
    assert first["regarding"] == {**POOL["metadata"], "apiVersion": POOL["apiVersion"], "kind": "WorkerPool"}
    assert (first["type"], first["reason"], first["reportingController"]) == (
        "Warning",
        "PodsRefused",
        "forebay.dev/operator",
    )
    assert first["eventTime"] == "2023-11-14T22:13:20.000000Z"
    assert api.calls[2][1]["series"]["count"] == 3


async def test_one_that_was_forgotten_is_made_anew(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    told.about(POOL, "Scaled", "2 pods made", False)
    await until(lambda: api.calls)
    api.objects.clear()
    told.about(POOL, "Scaled", "2 pods made", False)
    await until(lambda: len(api.calls) == 2 and api.objects)
    assert [verb for verb, _ in api.calls] == ["create", "create"]


async def test_what_cannot_be_told_is_dropped(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    api.faults = [ApiError(403, "Forbidden", "no events here")]
    told.about(POOL, "One", "1", False)
    for number in range(2 * events.WAITING):
        told.about(POOL, "Many", str(number), False)
    await until(lambda: len(api.calls) > events.WAITING - 2)
    assert len(api.calls) <= events.WAITING


SEES = Condition(ConditionType.SCALING_ACTIVE, Status.TRUE, Reason.SCALING)
LOST = "a gateway is missing: nothing is scaled down"
SLOW = "no answer within 5 s: gateways' counters are used, nothing is scaled down"
STILL = "until this is over; requests still start it, and what gateways count scales it up"


def blind(reason: Reason, message: str = LOST) -> Condition:
    return Condition(ConditionType.SCALING_ACTIVE, Status.FALSE, reason, message)


def turn(condition: Condition | None = SEES, desired: int = 1, message: str = "", uid: str = "u1") -> Outcome:
    decision = Decision(NOW, desired, 1, "Mean", message or f"{desired} replicas")
    return outcome(more=[condition] if condition else [], scaling=decision, uid=uid)


class Heard:
    """Events of a term that began long ago, unless it ``began`` otherwise."""

    def __init__(self, *, stored: Any = None, began: float = NOW - 60.0) -> None:
        self.now = began
        shown = {("ns", "f"): {**OBJECT, "status": stored}} if stored else {}
        self.events = Events(Stored(), "op-a", lambda: shown, clock=lambda: self.now)
        self.now = NOW

    def tell(self, *turns: Outcome) -> list[tuple[str, str, bool]]:
        """(reason, note, warning) of all that is told."""
        found = []
        for one in turns:
            self.events.take(one)
            while self.events._pending:
                told = self.events._pending.pop()
                found.append((told.reason, told.note, told.warning))
        return found


UNHEARD = outcome(State.IDLE, Status.UNKNOWN, reason="NoWorker")
LOOKING = outcome(State.IDLE, Status.UNKNOWN, reason="Resolving")


def failed(reason: str = "ArtifactNotFound", generation: int = 1) -> Outcome:
    stalled = Condition(ConditionType.STALLED, Status.TRUE, reason, "there is nothing", generation)
    return outcome(State.FAILED, Status.FALSE, reason=reason, message="there is nothing", more=[stalled])


def reasons(told: Iterable[tuple[str, str, bool]]) -> list[str]:
    return [reason for reason, *_ in told]


def test_a_new_operator_takes_nobody_for_idle_whose_workers_it_has_not_heard() -> None:
    heard = Heard(stored={"state": "Serving"}, began=NOW)
    assert heard.tell(UNHEARD, outcome(), outcome(State.SERVING)) == []
    heard.now += 60.0
    assert reasons(heard.tell(outcome())) == ["ScaledToZero"]


def test_who_has_no_worker_left_was_not_scaled_to_zero() -> None:
    heard = Heard()
    assert reasons(heard.tell(outcome(State.SERVING), UNHEARD)) == ["Serving"]
    assert reasons(heard.tell(outcome(State.LOADING), outcome(State.SERVING), outcome())) == [
        *("Loading", "Serving", "ScaledToZero")
    ]


def test_who_waits_again_is_told_of_again() -> None:
    heard = Heard()
    waits = outcome(State.QUEUED)
    assert reasons(heard.tell(waits, waits, UNHEARD, waits)) == ["RequestsWaiting"] * 2
    begun = Heard(stored={"state": "Queued"}, began=NOW)
    assert begun.tell(UNHEARD, waits) == []


def test_a_failure_is_over_once_the_model_was_found() -> None:
    heard = Heard()
    assert reasons(heard.tell(failed(), failed(), LOOKING, failed())) == ["ArtifactNotFound"]
    assert reasons(heard.tell(LOOKING, failed(generation=2))) == ["ArtifactNotFound"]
    assert reasons(heard.tell(LOOKING, failed("Unauthorized", generation=3))) == ["Unauthorized"]
    assert reasons(heard.tell(LOOKING, outcome())) == ["Recovered"]


def test_a_new_operator_tells_no_failure_again() -> None:
    entry = {"type": "Stalled", "status": "True", "reason": "ArtifactNotFound", "observedGeneration": 1}
    heard = Heard(stored={"state": "Failed", "conditions": [entry]}, began=NOW)
    assert heard.tell(UNHEARD, LOOKING, failed()) == []
    heard.now += 60.0
    assert reasons(heard.tell(outcome())) == ["Recovered"]


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([SEES, SEES], []),
        ([SEES, blind(Reason.METRICS_UNAVAILABLE)], [("ScalingBlind", f"{LOST} {STILL}", True)]),
        (
            [SEES, *(blind(Reason.STALE_SAMPLES, f"{age} s old") for age in (31, 32, 33))],
            [("ScalingBlind", f"31 s old {STILL}", True)],
        ),
        (
            [SEES, blind(Reason.METRICS_UNAVAILABLE), blind(Reason.PROMETHEUS_TIMEOUT, SLOW), SEES],
            [
                ("ScalingBlind", f"{LOST} {STILL}", True),
                ("ScalingBlind", f"{SLOW} {STILL}", True),
                ("ScalingSees", "enough is known again to scale it up and down", False),
            ],
        ),
        # What fills only now says nothing new, in either direction.
        ([SEES, blind(Reason.NOT_YET_KNOWN), SEES], []),
        (
            [blind(Reason.NO_SAMPLES), blind(Reason.NOT_YET_KNOWN), SEES],
            [
                ("ScalingBlind", f"{LOST} {STILL}", True),
                ("ScalingSees", "enough is known again to scale it up and down", False),
            ],
        ),
        # Who is pinned meanwhile is not scaled by us.
        (
            [blind(Reason.NO_SAMPLES), Condition(ConditionType.SCALING_ACTIVE, Status.TRUE, Reason.PINNED)],
            [("ScalingBlind", f"{LOST} {STILL}", True)],
        ),
        ([SEES, None, blind(Reason.NO_SAMPLES), None], [("ScalingBlind", f"{LOST} {STILL}", True)]),
    ],
)
def test_blindness_is_told_once(turns: Sequence[Condition | None], told: list[tuple[str, str, bool]]) -> None:
    assert Heard().tell(*map(turn, turns)) == told


def test_a_new_operator_tells_no_blindness_again() -> None:
    entry = {"type": "ScalingActive", "status": "False", "reason": "PrometheusTimeout"}
    heard = Heard(stored={"state": "Idle", "conditions": [entry]})
    assert heard.tell(turn(blind(Reason.PROMETHEUS_TIMEOUT))) == []
    assert [reason for reason, *_ in heard.tell(turn())] == ["ScalingSees"]


def test_a_new_operator_is_blind_at_first_and_says_so_only_if_it_stays() -> None:
    heard = Heard(began=NOW - 5.0)
    assert heard.tell(turn(), turn(blind(Reason.METRICS_UNAVAILABLE)), turn()) == []
    assert heard.tell(turn(blind(Reason.METRICS_UNAVAILABLE))) == []
    heard.now += 10.0
    assert [reason for reason, *_ in heard.tell(turn(blind(Reason.METRICS_UNAVAILABLE)))] == ["ScalingBlind"]


@pytest.mark.parametrize(
    ("desired", "told"),
    [
        ([1, 1], []),
        ([1, 3], [("ScaledUp", "from 1 to 3: 3 replicas", False)]),
        ([3, 2], [("ScaledDown", "from 3 to 2: 2 replicas", False)]),
        ([0, 2, 0, 1], []),  # the state tells of zero
    ],
)
def test_scaling_between_some_and_more_is_told(desired: list[int], told: list[tuple[str, str, bool]]) -> None:
    assert Heard().tell(*(turn(desired=count) for count in desired)) == told


def test_what_the_operator_before_wanted_is_no_news() -> None:
    assert Heard(stored={"state": "Idle", "desiredReplicas": 3}).tell(turn(desired=1)) == []


def test_another_function_of_the_name_has_no_past() -> None:
    assert Heard().tell(turn(desired=3), turn(desired=1, uid="u2")) == []


async def test_the_same_step_again_is_counted_whatever_its_numbers(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    told.take(turn(desired=1))
    for count, (desired, message) in enumerate([(2, "9 requests"), (1, ""), (2, "11 requests")], 1):
        told.take(turn(desired=desired, message=message))
        await until(lambda count=count: len(api.calls) == count)
    notes = [body["note"] for verb, body in api.calls if verb == "create"]
    assert notes == ["from 1 to 2: 9 requests", "from 2 to 1: 1 replicas"]
    assert [verb for verb, _ in api.calls] == ["create", "create", "patch"]
    assert KEY in told._known


def of_all(condition: Condition, names: Iterable[str]) -> Outcome:
    """All these functions, of which a pass says the same."""
    one = turn(condition)
    (seen,), (status,), (decision,) = one.seen.functions, one.statuses.values(), one.scaling.values()
    functions = [replace(seen, function=replace(seen.function, name=name, uid=f"u-{name}")) for name in names]
    keys = [function.function.key for function in functions]
    return replace(
        one,
        seen=replace(one.seen, functions=tuple(functions)),
        statuses=dict.fromkeys(keys, status),
        scaling=dict.fromkeys(keys, decision),
    )


class TestThousandFunctions:
    """At once, all of what is told by one hand."""

    NAMES = tuple(f"f{number:03}" for number in range(1000))

    async def test_each_hears_once_that_it_is_blind_and_once_that_it_sees(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "APART", 0.0)
        api = Stored()
        told = Events(api, "op-a", dict, clock=lambda: NOW)
        told._began -= 60.0
        dropped = events.EVENTS.labels("dropped")._value.get()
        task = asyncio.ensure_future(told.run())
        try:
            for condition, reason in ((blind(Reason.PROMETHEUS_UNREACHABLE), "ScalingBlind"), (SEES, "ScalingSees")):
                api.calls.clear()
                for _ in range(3):
                    told.take(of_all(condition, self.NAMES))
                await until(lambda: not told._pending and len(api.calls) >= len(self.NAMES))
                heard = [(body["regarding"]["name"], body["reason"]) for _, body in api.calls]
                assert sorted(heard) == [(name, reason) for name in self.NAMES]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert events.EVENTS.labels("dropped")._value.get() == dropped

    def test_what_is_over_before_it_was_told_is_not_told(self) -> None:
        told = Events(Stored(), "op-a", dict, clock=lambda: NOW)
        told._began -= 60.0
        told.take(of_all(SEES, self.NAMES))
        for _ in range(50):  # nothing piles up, however often it changes
            told.take(of_all(blind(Reason.PROMETHEUS_TIMEOUT), self.NAMES))
            assert len(told._pending) == len(self.NAMES)
            told.take(of_all(blind(Reason.STALE_SAMPLES), self.NAMES))
            assert len(told._pending) == len(self.NAMES)
            told.take(of_all(SEES, self.NAMES))
            assert len(told._pending) == 0

    def test_what_was_told_is_ended_though_the_next_was_not_told(self) -> None:
        """Blind for one reason, which was told, and then for another, which was not yet."""
        heard = Heard()
        assert [reason for reason, *_ in heard.tell(turn(blind(Reason.STALE_SAMPLES)))] == ["ScalingBlind"]
        heard.events.take(turn(blind(Reason.PROMETHEUS_TIMEOUT)))
        assert [reason for reason, *_ in heard.tell(turn(SEES))] == ["ScalingSees"]

    def test_who_is_gone_is_not_told_of(self) -> None:
        told = Events(Stored(), "op-a", dict, clock=lambda: NOW)
        told._began -= 60.0
        told.about(POOL, "Scaled", "2 pods made", False)
        told.take(of_all(blind(Reason.STALE_SAMPLES), self.NAMES))
        told.take(of_all(blind(Reason.STALE_SAMPLES), self.NAMES[:1]))
        assert len(told._pending) == 2
        assert [told._pending.pop().subject.name for _ in range(2)] == ["p", "f000"]
