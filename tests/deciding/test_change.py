"""A changed model is a rolling change: new holdings first, then the switch, then the old ones leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deciding.test_whole_life import AMPLE, fleet, to_zero
from deciding.values import NOW, function, model, pipeline, snapshot, worker
from deciding.world import World
from forebay_api.conditions import Reason
from forebay_api.function import Scaling
from forebay_api.model import Stage
from forebay_operator.decide import change, scale
from forebay_operator.decide.seen import HoldingSeen, Snapshot

ALL = range(6)
LOST = (Reason.ARTIFACT_NOT_FOUND.value, "no such folder")


def rolling(resident: range, *, formed: bool = True) -> Snapshot:
    """``a`` is served by w0; ``b`` is formed on w1, which has ``resident`` units of it."""
    there = worker("w1", backbone="b", resident=resident, order=ALL)
    seen = snapshot([function()], [worker("w0", backbone="a", resident=ALL), there], [model("a"), model("b")])
    old = pipeline(Stage("w0", 0, 5), backbone="a", counter=1)
    new = pipeline(Stage("w1", 0, 5), backbone="b", counter=2)
    return replace(seen, pipelines=(old, new) if formed else (old,))


def test_the_old_one_serves_until_the_new_one_has_all_it_needs() -> None:
    assert change.previous(rolling(ALL, formed=False), "b", "a") == "a"
    assert change.previous(rolling(range(3)), "b", "a") == "a"
    assert change.previous(rolling(ALL), "b", "a") == ""


def test_the_old_one_serves_while_the_new_one_is_not_known_or_cannot_be_had() -> None:
    assert change.previous(rolling(range(3)), "", "a") == "a"


def test_at_zero_and_after_a_fault_there_is_nothing_to_wait_for() -> None:
    seen = rolling(range(3))
    assert change.previous(replace(seen, pipelines=seen.pipelines[1:]), "b", "a") == ""
    assert change.previous(replace(seen, workers=seen.workers[1:]), "b", "a") == ""
    told = pipeline(Stage("w0", 0, 5), backbone="a", told_only=True)
    assert change.previous(replace(seen, pipelines=(told,)), "b", "a") == ""


def test_nothing_changes_while_the_model_is_the_same() -> None:
    assert change.previous(rolling(ALL), "a", "a") == ""


def test_one_that_cannot_be_had_ends_nothing_that_serves() -> None:
    warm = replace(function(backbone="", failure=LOST, scaling=Scaling(min_replicas=1)), previous="a")
    assert scale.desired(warm, NOW, 1).desired == 1
    assert scale.desired(replace(warm, previous=""), NOW, 1).desired == 0


def warm(memory: int, *, count: int = 2, least: int = 0) -> World:
    """``f`` is served by ``a``, and two models are known."""
    scaling = Scaling(min_replicas=least)
    world = World([model("a"), model("b")], [function("f", backbone="a", scaling=scaling)], fleet(count, memory))
    world.settle()
    world.ask("f")
    step(world)
    assert world.full("a")
    return world


def step(world: World) -> None:
    world.settle()
    world.serve()
    world.load_all()
    world.finish()
    world.settle()


def test_requests_are_answered_without_waiting_all_through_a_change() -> None:
    world = warm(AMPLE)
    world.change("f", "b")
    world.settle()
    switched = False
    for _ in range(12):
        world.ask("f")
        world.serve()
        assert not world.waiting.total()
        assert world.finish(), "every request is at a pipeline that has all it needs"
        switched |= world.reported().functions[0].previous == ""
        for name in world.devices:
            world.load(name)
        world.settle()
    assert switched
    assert world.full("b")
    assert not any("a" in device.held for device in world.devices.values())
    to_zero(world)


def test_running_requests_end_at_the_old_one() -> None:
    world = warm(AMPLE)
    world.ask("f")
    world.serve()
    (old,) = [pipe for pipe in world.pipes.values() if pipe.form.backbone == "a"]
    world.change("f", "b")
    world.settle()
    world.load_all()
    assert old.running == ["f"]
    assert world.formed("b")
    assert world.finish()
    world.settle()
    assert not any("a" in device.held for device in world.devices.values())


@pytest.mark.parametrize("least", [0, 1])
def test_without_room_for_both_the_old_one_leaves_when_it_is_idle(least: int) -> None:
    world = warm(900, count=1, least=least)
    world.ask("f")
    world.serve()
    world.change("f", "b")
    world.settle()
    assert world.full("a") == ["w0"], "a request runs there"
    world.finish()
    step(world)
    world.ask("f")
    step(world)
    assert world.full("b") == ["w0"]
    assert not world.full("a")


def test_a_function_at_zero_simply_gets_the_new_one() -> None:
    world = World([model("a"), model("b")], [function("f", backbone="a")], fleet(2))
    world.settle()
    world.change("f", "b")
    world.ask("f")
    step(world)
    assert {form.backbone for form in world.forms} == {"b"}


def test_changed_back_before_the_new_one_served() -> None:
    world = warm(AMPLE)
    world.change("f", "b")
    world.settle()
    world.change("f", "a")
    step(world)
    assert world.full("a")
    assert not any("b" in device.held for device in world.devices.values())


EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["f", "g"])),
    st.tuples(st.just("load"), st.sampled_from(["w0", "w1"])),
    st.tuples(st.just("kill"), st.sampled_from(["w0", "w1"])),
    st.tuples(st.just("replace"), st.sampled_from(["w0", "w1"])),
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.just("change"), st.sampled_from(["a", "b", "c"])),
    st.tuples(st.sampled_from(["decide", "serve", "finish"]), st.none()),
)


@settings(max_examples=150)
@given(
    events=st.lists(EVENTS, max_size=40),
    memory=st.sampled_from([700, 1000, 1400, AMPLE]),
    least=st.sampled_from([0, 1]),
)
def test_whatever_happens_every_request_ends_and_the_last_model_stays(
    events: list[tuple[str, object]], memory: int, least: int
) -> None:
    functions = [function("f", backbone="a", scaling=Scaling(min_replicas=least)), function("g", backbone="b")]
    world = World([model("a"), model("b"), model("c")], functions, fleet(2, memory))
    world.settle()
    for what, subject in events:
        match what:
            case "decide":
                world.decide()
            case "serve" | "finish":
                getattr(world, what)()
            case "change":
                world.change("f", str(subject))
            case _:
                getattr(world, what)(subject)
    for name in world.devices:
        world.replace(name)
    for _ in range(6):
        step(world)
        world.now += 31  # for a function with requests, what stays warm makes room after its turn
    world.ask("f")
    for _ in range(4):
        step(world)
    assert not world.waiting.total()
    assert not any(pipe.running for pipe in world.pipes.values())
    assert world.reported().functions[0].previous == ""
    assert world.full(world.backbone_of["f"]) or world.formed(world.backbone_of["f"])


def test_an_empty_holding_is_no_answer() -> None:
    seen = rolling(ALL)
    emptied = replace(seen.workers[1], holdings={"b": HoldingSeen(order=tuple(ALL))})
    assert change.previous(replace(seen, workers=(seen.workers[0], emptied)), "b", "a") == "a"
