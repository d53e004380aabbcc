"""Who is asked again about a model, and when: a worker of the function's pool, and at once when a Secret is another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from deciding.values import snapshot, worker
from forebay_api.function import Function
from forebay_api.model import Model
from forebay_operator.act import Actor
from forebay_operator.casualties import MOST
from forebay_operator.credentials import Refused, SecretKey, Token
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.seen import FunctionSeen, Snapshot
from forebay_operator.decide.steps import Inspect
from forebay_operator.inspections import DEADLY_RETRY, FIRST_REST, PATIENCE, REMOTE_RETRY, RETRY, Failure, Inspections
from forebay_operator.sent import Sent
from forebay_operator.snapshot import Epochs
from forebay_operator.subject import Subject
from forebay_operator.wire import MOST_UNITS
from forebay_wire.v1 import fleet_pb2, model_pb2

INCARNATIONS = {"small-0": "small-0-1", "big-0": "big-0-1"}
BOTH = {**INCARNATIONS, "big-1": "big-1-1"}
REFUSAL = {"reason": "Unauthorized", "message": "the hub refused"}


@dataclass
class Secrets:
    """What is found for every Secret; ``doubts``: how often somebody doubted it."""

    found: Token | Refused | None
    doubts: int = 0

    def find(self, wanted: SecretKey, *, doubted: bool = False) -> Token | Refused | None:
        self.doubts += doubted
        return self.found


@dataclass
class Told:
    """A fleet of which everybody hears."""

    commands: list[tuple[str, fleet_pb2.Command]] = field(default_factory=list)

    @property
    def workers(self) -> dict[str, Any]:
        return {name: SimpleNamespace(name=name, incarnation=value) for name, value in BOTH.items()}

    def tell(self, worker: str, command: fleet_pb2.Command) -> bool:
        self.commands.append((worker, command))
        return True

    def asked(self) -> list[tuple[str, str]]:
        """(worker, credentials) of each question."""
        return [(worker, command.inspect.credentials) for worker, command in self.commands]


class Desk:
    """An operator's memory of one function of pool ``big``; answers come from the worker that was asked."""

    def __init__(self, found: Token | Refused | None = None, uri: str = "hf://org/m") -> None:
        secret: dict[str, Any] = {"credentials": {"secretRef": {"name": "hub", "key": "TOKEN"}}} if found else {}
        body = {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "LLMFunction",
            "metadata": {"name": "f", "namespace": "team"},
            "spec": {"model": {"uri": uri, **secret}, "pool": "big"},
        }
        self.function = Function.from_body(body)
        self.subject = Subject.of(self.function)
        self.secrets, self.fleet, self.inspections = Secrets(found), Told(), Inspections()
        self.actor = Actor(self.fleet, self.inspections, Sent(), Epochs(), self.secrets)  # type: ignore[arg-type]

    def seen(self, *, ready: bool = True, failure: bool = True, backbone: str = "") -> Snapshot:
        known = FunctionSeen(self.function, backbone, failure=("Unauthorized", "") if failure else None)
        small, big = replace(worker("small-0"), pool="small"), replace(worker("big-0", ready=ready), pool="big")
        return replace(snapshot([known]), workers=(small, big))

    def again(self, now: float, **seen: Any) -> None:
        self.inspections.settle(INCARNATIONS, now)
        self.actor.ask_again(self.seen(**seen), now)

    def ask(self, now: float) -> None:
        self.actor._inspect(self.subject, "big-0", now)

    def answer(self, now: float, **said: Any) -> None:
        """To the last question."""
        self.inspections.hear(fleet_pb2.Inspection(id=self.fleet.commands[-1][1].inspect.id, **said))
        self.inspections.settle(INCARNATIONS, now)


def test_a_worker_of_the_function_s_pool_is_asked_again() -> None:
    desk = Desk(uri="file:///m")
    desk.ask(0.0)
    desk.answer(0.0, **REFUSAL)
    desk.again(RETRY - 1)
    assert len(desk.fleet.commands) == 1
    desk.again(RETRY, ready=False)
    assert len(desk.fleet.commands) == 1, "rather nobody than a worker of another pool"
    desk.again(RETRY)
    assert desk.fleet.asked() == [("big-0", ""), ("big-0", "")]


def test_what_could_not_be_built_is_built_by_workers_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(uri="file:///m")
    told: list[str] = []
    monkeypatch.setattr(Actor, "_tell", lambda _self, step, _seen, _now: bool(told.append(step.worker)) or True)
    desk.again(0.0, backbone="unbuilt")
    assert told == ["big-0"]


def test_another_token_is_tried_at_once() -> None:
    desk = Desk(Token("old"))
    desk.ask(0.0)
    desk.answer(0.1, **REFUSAL)
    desk.again(0.2)
    assert desk.fleet.asked() == [("big-0", "old")]
    desk.secrets.found = Token("new")
    desk.again(0.3)
    desk.again(0.4)
    assert desk.fleet.asked() == [("big-0", "old"), ("big-0", "new")], "once"
    desk.answer(0.5, **REFUSAL)
    desk.again(0.6)
    assert len(desk.fleet.commands) == 2, "it was tried, and did not help either"


def test_a_token_that_comes_while_another_is_tried_is_tried_after_it() -> None:
    desk = Desk(Token("old"))
    desk.ask(0.0)
    desk.secrets.found = Token("new")
    desk.again(0.1)
    desk.answer(0.2, **REFUSAL)
    desk.again(0.3)
    assert desk.fleet.asked() == [("big-0", "old"), ("big-0", "new")]


def test_a_secret_that_is_made_after_its_function_is_used_at_once() -> None:
    desk = Desk(Refused("there is no Secret"))
    desk.ask(0.0)
    desk.again(0.1)
    desk.secrets.found = Refused("it has no key")
    desk.again(0.2)
    assert getattr(desk.inspections.found(desk.subject), "message", "") == "it has no key"
    desk.secrets.found = None  # it is being read
    desk.again(0.3)
    assert not desk.fleet.commands
    desk.secrets.found = Token("new")
    desk.again(0.4)
    assert desk.fleet.asked() == [("big-0", "new")]


def test_nothing_is_doubted_that_helped() -> None:
    desk = Desk(Token("good"))
    desk.ask(0.0)
    desk.answer(0.1, model=model_pb2.Model(backbone="b"))
    desk.secrets.found = Token("better")
    desk.again(0.2, failure=False)
    assert (len(desk.fleet.commands), desk.secrets.doubts) == (1, 0)
    desk.again(0.1 + REMOTE_RETRY, failure=False)
    assert desk.fleet.asked()[-1] == ("big-0", "better")


class Shift(Desk):
    """Two workers of the function's pool, asked by whole passes."""

    def turn(self, now: float, incarnations: dict[str, str] = BOTH) -> None:
        self.inspections.settle(incarnations, now)
        found = self.inspections.found(self.subject)
        known = FunctionSeen(
            self.function,
            backbone="b" if isinstance(found, Model) else "",
            failure=(found.reason, found.message) if isinstance(found, Failure) else None,
            inspecting=self.inspections.under_way(self.subject),
            vain=self.inspections.vain(self.subject),
        )
        pool = tuple(replace(worker(name), pool="big") for name in ("big-0", "big-1"))
        seen = replace(snapshot([known]), workers=pool)
        for step in next_steps(seen, now).steps:
            if isinstance(step, Inspect):
                self.actor.carry_out(step, seen, now)
        self.actor.ask_again(seen, now)

    def said(self, now: float, **answer: Any) -> None:
        self.inspections.hear(fleet_pb2.Inspection(id=self.fleet.commands[-1][1].inspect.id, **answer))
        self.turn(now)

    @property
    def asked(self) -> list[str]:
        return [name for name, _ in self.fleet.commands]


AWAY = {"reason": "SourceUnavailable", "message": "no way to the hub"}
ABSENT = {"reason": "ArtifactNotFound", "message": "no such folder"}
THERE = {"model": model_pb2.Model(backbone="b")}


def test_a_source_that_one_worker_does_not_reach_is_looked_at_by_another() -> None:
    desk = Shift()
    desk.turn(0.0)
    desk.said(1.0, **AWAY)
    desk.turn(1.0 + FIRST_REST)
    assert desk.asked == ["big-0", "big-1"]
    desk.said(4.0, **THERE)
    desk.turn(4.0 + REMOTE_RETRY)
    assert desk.asked == ["big-0", "big-1", "big-1"], "rather one that could say"


def test_one_that_does_not_answer_is_followed_by_another() -> None:
    desk = Shift()
    desk.turn(0.0)
    desk.turn(PATIENCE)
    desk.turn(2 * PATIENCE)
    assert desk.asked == ["big-0", "big-1", "big-0"], "in turn, while nobody answers"


def test_a_broken_node_does_not_make_a_function_fail_for_good() -> None:
    desk = Shift(uri="file:///m")
    desk.turn(0.0)
    desk.said(1.0, **ABSENT)
    desk.turn(1.0 + RETRY)
    desk.said(2.0 + RETRY, **THERE)
    assert isinstance(desk.inspections.found(desk.subject), Model)
    desk.turn(2.0 + 2 * RETRY)
    assert desk.asked == ["big-0", "big-1", "big-1"], "or it would fail again and again"


def test_one_that_ended_over_it_is_followed_by_another() -> None:
    desk = Shift()
    desk.turn(0.0)
    desk.turn(1.0, {**BOTH, "big-0": "big-0-2"})
    assert desk.asked == ["big-0", "big-1"]
    desk.said(2.0, **THERE)
    assert isinstance(desk.inspections.found(desk.subject), Model)


def test_what_ends_workers_is_not_asked_of_all_of_them() -> None:
    desk = Shift(uri="file:///m")
    lives = dict(BOTH)
    for now in range(1, MOST + 1):
        desk.turn(now - 1.0, lives)
        lives[desk.asked[-1]] += "'"
    desk.turn(MOST, lives)
    found = desk.inspections.found(desk.subject)
    assert isinstance(found, Failure)
    assert (found.reason, found.message.partition(";")[0]) == (
        "InvalidCheckpoint",
        "3 workers ended while they looked at the model",
    )
    desk.turn(MOST + RETRY, lives)
    assert desk.asked == ["big-0", "big-1", "big-0"]
    assert desk.inspections.wake_at(MOST + RETRY) == MOST + DEADLY_RETRY
    desk.turn(MOST + DEADLY_RETRY, lives)
    assert len(desk.asked) == MOST + 1, "it may have been corrected"
    desk.said(MOST + DEADLY_RETRY, **THERE)
    assert isinstance(desk.inspections.found(desk.subject), Model)


def test_a_corrected_spec_is_looked_at_at_once() -> None:
    desk = Shift(uri="file:///m")
    lives = dict(BOTH)
    for now in range(MOST):
        desk.turn(now, lives)
        lives[desk.asked[-1]] += "'"
    desk.turn(MOST, lives)
    desk.inspections.forget_failure(desk.subject)
    desk.turn(MOST, lives)
    assert len(desk.asked) == MOST + 1


def test_those_who_were_asked_together_with_what_ends_workers_are_asked_again_by_themselves() -> None:
    inspections, deadly = Inspections(), Subject("file:///deadly", "auto")
    innocent = [Subject(f"file:///{number}", "auto") for number in range(3)]
    asked = [deadly, *innocent]
    for life in range(20):
        lives = {"w": str(life)}
        inspections.settle(lives, 0.0)
        questions = {s: inspections.ask(s, "w", str(life), 0.0) for s in asked if inspections.found(s) is None}
        told = [subject for subject, question in questions.items() if question]
        assert len(told) == (len(asked) if life == 0 else bool(questions)), "alone from then on"
        for subject in told if deadly not in told else []:
            question = questions[subject]
            assert question is not None
            inspections.hear(fleet_pb2.Inspection(id=question.id, model=model_pb2.Model(backbone=subject.uri)))
    assert isinstance(inspections.found(deadly), Failure)
    assert all(isinstance(inspections.found(subject), Model) for subject in innocent)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([model_pb2.Unit(kind="layer")] * (MOST_UNITS + 1), "expected at most 520"),
        ([model_pb2.Unit(kind="gate")], "'gate' is not a valid UnitKind"),
    ],
)
def test_a_model_that_cannot_be_planned_is_its_function_s_failure_alone(units: list[model_pb2.Unit], said: str) -> None:
    desk = Shift(uri="file:///m")
    desk.turn(0.0)
    desk.said(1.0, model=model_pb2.Model(backbone="b", units=units))
    found = desk.inspections.found(desk.subject)
    assert isinstance(found, Failure)
    assert found.reason == "UnsupportedArchitecture"
    assert said in found.message
    desk.turn(2.0)
    assert desk.asked == ["big-0"]
