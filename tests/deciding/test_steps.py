"""One decision at a time: orders, placement, faults, eviction, and what is under way."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deciding.values import NOW, STAGES, WAITING, function, model, pipeline, snapshot, worker
from forebay_api.conditions import Reason
from forebay_api.function import Scaling
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.intents import applied
from forebay_operator.decide.order import holds, of_need, rotated
from forebay_operator.decide.place import candidates, nobody, rooms
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.recover import broken, condemned
from forebay_operator.decide.routes import cover, form
from forebay_operator.decide.seen import Costs, DemandSeen, HoldingSeen, PipelinePhase
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prepare, Step
from forebay_operator.decide.want import Want


def kinds(steps: tuple[Step, ...]) -> list[str]:
    return [type(step).__name__ for step in steps]


# -- order --


def test_the_embedding_comes_after_the_layers_of_its_segment() -> None:
    assert of_need(range(4)) == (1, 2, 3, 0)
    assert of_need(range(3, 6)) == (3, 4, 5)


def test_a_fill_goes_around_from_the_own_segment() -> None:
    stages = (Stage("a", 0, 1), Stage("b", 2, 3), Stage("c", 4, 5))
    assert rotated(stages, "a") == (1, 0, 2, 3, 4, 5)
    assert rotated(stages, "b") == (2, 3, 4, 5, 1, 0)
    assert rotated(stages, "c") == (4, 5, 1, 0, 2, 3)
    assert rotated(stages, "stranger") == (1, 0, 2, 3, 4, 5)


@given(ends=st.sets(st.integers(0, 28), max_size=5))
def test_every_order_is_all_units_once_rotated_to_the_own_segment(ends: set[int]) -> None:
    bounds = [-1, *sorted(ends), 29]
    stages = [Stage(f"w{i}", first + 1, last) for i, (first, last) in enumerate(pairwise(bounds))]
    segments = [of_need(stage.units) for stage in stages]
    for place, stage in enumerate(stages):
        turned = [*segments[place:], *segments[:place]]
        assert rotated(stages, stage.worker) == tuple(unit for segment in turned for unit in segment)
        assert sorted(rotated(stages, stage.worker)) == list(range(30))


def test_after_two_rounds_of_the_rotation_every_unit_has_two_holders() -> None:
    stages = (Stage("a", 0, 1), Stage("b", 2, 3), Stage("c", 4, 5))
    early = [unit for name in "abc" for unit in rotated(stages, name)[:4]]
    assert sorted(early) == sorted([*range(6)] * 2)


def test_an_order_that_does_as_much_already_is_not_sent_again() -> None:
    workers = [worker("w0"), worker("w1")]
    seen = snapshot((), workers)
    told = holds(seen, "b", [STAGES], frozenset({"w1"}))
    assert told == (Hold("w0", "b", (1, 2, 0), 3), Hold("w1", "b", (3, 4, 5, 1, 2, 0), 3))
    assert holds(applied(seen, told), "b", [STAGES], frozenset({"w1"})) == ()


def test_a_worker_that_failed_is_told_no_more() -> None:
    failed = replace(worker("w0"), holdings={"b": HoldingSeen(error="InvalidCheckpoint: truncated")})
    assert [hold.worker for hold in holds(snapshot((), [failed, worker("w1")]), "b", [STAGES], frozenset())] == ["w1"]


# -- place, recover --


def test_who_holds_most_is_preferred_then_most_room_then_the_least_busy_then_by_name() -> None:
    workers = [
        worker("busy"),
        worker("small", memory=10**8),
        worker("holds", resident=[1, 2]),
        worker("a"),
        worker("gone", ready=False),
    ]
    seen = snapshot((), workers, [model(), model("o")])
    serving = replace(pipeline(Stage("busy", 0, 5), backbone="o"), kv_blocks=0)
    seen = replace(seen, pipelines=(serving,))
    assert [w.name for w in candidates(seen, "b")] == ["holds", "a", "busy", "small"]
    assert [w.name for w in candidates(seen, "b", {"holds"})] == ["a", "busy", "small"]


def test_backbones_that_nobody_has_anything_of_have_the_same_candidates() -> None:
    workers = [worker("w0", resident=range(6)), worker("w1", memory=5000), worker("w2", memory=6000, ready=False)]
    seen = snapshot((), workers, [model(), model("s"), model("t")])
    for banned in (frozenset[str](), frozenset({"w0"})):
        for backbone in ("s", "b", "t"):
            assert candidates(seen, backbone, banned) == candidates(replace(seen), backbone, banned)
    assert rooms(seen, "b") == {"w0": 10**9 - 460, "w1": 5000}  # what is resident of it is paid
    assert rooms(seen, "s") == rooms(seen, "t") == {"w0": 10**9 - 460 - 4 * 64, "w1": 5000}


def test_a_worker_where_loading_failed_is_no_candidate_unless_it_has_everything() -> None:
    failed = replace(worker("w0"), holdings={"b": HoldingSeen(frozenset({1}), error="ChecksumMismatch: unit 2")})
    leaving = replace(worker("w1"), holdings={"b": HoldingSeen(frozenset(range(6)), leaving=True)})
    full = replace(worker("w2"), holdings={"b": HoldingSeen(frozenset(range(6)), error="late")})
    assert [w.name for w in candidates(snapshot((), [failed, leaving, full]), "b")] == ["w2"]
    refusal = nobody(snapshot((), [worker("w9"), failed]), "b")
    assert (refusal.reason, refusal.message) == (Reason.MODEL_LOAD_FAILED, "w0: ChecksumMismatch: unit 2")
    assert nobody(snapshot(), "b").reason is Reason.NO_WORKER


@pytest.mark.parametrize(
    ("holding", "is_broken"),
    [
        (HoldingSeen(order=(0, 1, 2)), False),
        (HoldingSeen(frozenset({0}), order=(1, 2)), False),
        (HoldingSeen(frozenset({0, 1, 2}), error="while filling"), False),
        (HoldingSeen(frozenset({0}), order=(1, 2), error="truncated"), True),
        (HoldingSeen(frozenset({0, 1}), order=(3,)), True),
        (HoldingSeen(frozenset({0, 1, 2}), leaving=True), True),
        (None, True),
    ],
)
def test_a_pipeline_is_broken_when_a_stage_will_not_get_its_units(holding: HoldingSeen | None, is_broken: bool) -> None:
    w0 = replace(worker("w0"), holdings={"b": holding} if holding else {})
    seen = snapshot((), [w0, worker("w1", order=[3, 4, 5])])
    assert broken(seen, pipeline(*STAGES, told_only=True)) is is_broken


def test_a_pipeline_is_broken_when_a_worker_is_gone_or_unready_or_says_so() -> None:
    w0, w1 = worker("w0", order=range(3)), worker("w1", order=range(3, 6))
    assert not broken(snapshot((), [w0, w1]), pipeline(*STAGES))
    assert broken(snapshot((), [w0]), pipeline(*STAGES))
    assert broken(snapshot((), [w0, replace(w1, ready=False)]), pipeline(*STAGES))
    assert broken(snapshot((), [w0, w1]), pipeline(*STAGES, phase=PipelinePhase.BROKEN))


def test_of_answers_that_are_no_numbers_one_worker_is_to_blame_or_two_are_not() -> None:
    w0, w1, w2 = (replace(worker(name, resident=range(6)), ready=False) for name in ("w0", "w1", "w2"))
    w0, w1 = replace(w0, not_numbers=frozenset({"b"})), replace(w1, not_numbers=frozenset({"b", ""}))
    assert condemned([w0, w2, replace(w1, not_numbers=frozenset({"other", ""}))]) == frozenset()
    assert condemned([w0, w1, w2]) == {"b"}
    # Nobody names it any more: two get rid of it, and are well again. The third one's device is sick.
    unnamed = replace(snapshot((), [w0, w1, w2], []), pipelines=())
    assert next_steps(unnamed, NOW).steps == (Drop("w0", "b"), Drop("w1", "b"))
    assert next_steps(replace(unnamed, workers=(w0, w2)), NOW).steps == ()


# -- routes --


def test_a_cover_uses_each_worker_once_and_stops_at_the_stage_limit() -> None:
    workers = [worker("w0", resident=[0, 1, 2]), worker("w1", resident=[2, 3, 4]), worker("w2", resident=[4, 5])]
    seen = snapshot((), workers)
    want = Want("b", desired=1, max_stages=3)
    assert cover(seen, want, frozenset()) == (Stage("w0", 0, 2), Stage("w1", 3, 4), Stage("w2", 5, 5))
    assert cover(seen, want._replace(max_stages=2), frozenset()) is None
    assert cover(seen, want, frozenset({"w1"})) is None
    assert cover(snapshot(), want, frozenset()) is None


def test_a_pipeline_whose_kv_does_not_fit_is_not_formed() -> None:
    want = Want("b", desired=1, max_model_len=64, max_stages=1)
    alone = (Stage("w0", 0, 5),)
    assert form(snapshot((), [worker("w0", memory=460, resident=range(6))]), want, alone) is None
    assert form(snapshot((), [worker("w0", memory=460 + 256, resident=range(6))]), want, alone) is not None


def test_a_better_pipeline_must_be_reported_before_the_old_one_drains() -> None:
    workers = [worker("w0", resident=range(6)), worker("w1", resident=range(3, 6))]
    long = pipeline(*STAGES, running=1)
    short = pipeline(Stage("w0", 0, 5), counter=2, told_only=True)
    seen = replace(snapshot([function(demand=WAITING)], workers), pipelines=(long, short), next_epoch=Epoch(1, 3))
    assert next_steps(seen, NOW).steps == ()
    reported = replace(seen, pipelines=(long, replace(short, reported_by=frozenset({"w0"}))))
    assert next_steps(reported, NOW).steps == (Drain(Epoch(1, 1)),)


def test_a_worker_that_is_about_to_end_finishes_what_runs_while_another_takes_over() -> None:
    ending = replace(worker("w0", resident=range(6), ready=False), draining=True)
    running = pipeline(Stage("w0", 0, 5), running=2)
    seen = replace(snapshot([function(demand=WAITING)], [ending, worker("w1")]), pipelines=(running,))
    seen = replace(seen, next_epoch=Epoch(1, 2))
    steps = next_steps(seen, NOW).steps
    assert kinds(steps) == ["Drain", "Hold", "Form"]
    assert (steps[0], steps[1].worker) == (Drain(running.epoch), "w1")  # type: ignore[union-attr]
    told = applied(seen, steps)
    assert next_steps(told, NOW).steps == ()
    drained = replace(running, phase=PipelinePhase.DRAINED, running=0)
    assert Dissolve(running.epoch) in next_steps(replace(seen, pipelines=(drained,)), NOW).steps
    sick = replace(ending, draining=False)
    assert Dissolve(running.epoch) in next_steps(replace(seen, workers=(sick, seen.workers[1])), NOW).steps


def test_a_drained_pipeline_that_got_a_request_after_all_is_not_dissolved() -> None:
    full = [worker("w0", resident=range(6))]
    serving = pipeline(Stage("w0", 0, 5), counter=2)
    for running, ends in ((1, False), (0, True)):
        drained = pipeline(Stage("w0", 0, 5), phase=PipelinePhase.DRAINED, running=running)
        seen = replace(snapshot([function(demand=WAITING)], full), pipelines=(drained, serving))
        assert (Dissolve(Epoch(1, 1)) in next_steps(seen, NOW).steps) is ends


def test_a_surplus_replica_drains_and_the_busier_one_stays() -> None:
    workers = [worker("w0", resident=range(6)), worker("w1", resident=range(6))]
    calm, busy = pipeline(Stage("w0", 0, 5)), pipeline(Stage("w1", 0, 5), counter=2, running=3)
    seen = replace(snapshot([function(demand=WAITING)], workers), pipelines=(calm, busy), next_epoch=Epoch(1, 3))
    assert next_steps(seen, NOW).steps == (Drain(calm.epoch),)


def test_kv_that_does_not_fit_leaves_the_long_pipeline_serving() -> None:
    workers = [worker("w0", memory=600, resident=range(6)), worker("w1", memory=500, resident=range(3, 6))]
    seen = replace(snapshot([function(demand=WAITING)], workers), pipelines=(pipeline(*STAGES),))
    assert next_steps(seen, NOW).steps == ()


# -- a pass --


def test_a_model_is_inspected_once_by_any_ready_worker() -> None:
    functions = [function("f", backbone=""), function("g", backbone="", failure=("Invalid", ""))]
    seen = snapshot(functions, [worker("w1"), worker("w0"), worker("a", ready=False)], [])
    (step,) = next_steps(seen, NOW).steps
    assert step == Inspect("w0", "file:///f", "auto")
    assert next_steps(applied(seen, [step]), NOW).steps == ()
    assert next_steps(replace(seen, workers=()), NOW).steps == ()


def test_who_could_not_say_what_a_model_is_is_passed_over_while_there_are_others() -> None:
    workers = [worker("w0"), worker("w1"), worker("w2")]
    for vain, asked in (({"w0": 5.0}, "w1"), ({"w0": 5.0, "w1": 6.0, "w2": 4.0}, "w2"), ({"gone": 1.0}, "w0")):
        seen = snapshot([replace(function("f", backbone=""), vain=vain)], workers, [])
        assert next_steps(seen, NOW).steps == (Inspect(asked, "file:///f", "auto"),)


def test_compute_is_measured_once_for_workers_that_share_it() -> None:
    shared = [replace(worker(name), compute=frozenset({"host/cpu0"})) for name in ("w0", "w1")]
    seen = snapshot([function()], [*shared, worker("w2")], costs=Costs())
    seen = replace(seen, workers=tuple(replace(w, prepared=frozenset()) for w in seen.workers))
    steps = next_steps(seen, NOW).steps
    assert steps == (Prepare("w0", "b", True), Prepare("w1", "b", False), Prepare("w2", "b", True))
    after = applied(seen, steps)
    assert next_steps(after, NOW).steps == ()
    alone = replace(after, workers=after.workers[1:])
    assert next_steps(alone, NOW).steps == (Prepare("w1", "b", True),)


def test_steps_stand_in_the_order_in_which_they_must_be_heard() -> None:
    seen = snapshot([function(demand=WAITING)], [worker(f"w{i}") for i in range(3)])
    plan = next_steps(seen, NOW)
    assert kinds(plan.steps) == ["Hold", "Hold", "Hold", "Form"]
    assert next_steps(applied(seen, plan.steps), NOW).steps == ()


def test_a_cold_start_beside_another_is_predicted_to_begin_after_it() -> None:
    both = [function(demand=WAITING), function("g", backbone="c", demand=WAITING)]
    plan = next_steps(snapshot(both, [worker("w0"), worker("w1")], models=[model(), model("c")]), NOW)
    first, second = (step for step in plan.steps if isinstance(step, Form))
    assert first.predicted is not None
    assert second.predicted is not None
    assert first.predicted.wait == 0.0
    assert second.predicted.wait == 2.1  # until the sooner of two links has brought 210 of the 460 bytes of the first
    assert second.predicted.servable == pytest.approx(first.predicted.servable)


def test_an_idle_function_whose_pipeline_broke_is_not_loaded_again_but_keeps_what_is_left() -> None:
    rested = DemandSeen(last_ended=NOW - 1)
    workers = [worker("w0", resident=range(3))]
    seen = replace(snapshot([function(demand=rested)], workers), pipelines=(pipeline(*STAGES),))
    plan = next_steps(seen, NOW)
    assert plan.steps == (Dissolve(Epoch(1, 1)),)
    assert next_steps(applied(seen, plan.steps), NOW).steps == ()
    asked = replace(applied(seen, plan.steps), functions=(function(demand=WAITING),))
    assert kinds(next_steps(asked, NOW).steps) == ["Hold", "Form"]


def test_a_warm_worker_serves_again_though_nobody_asks_yet() -> None:
    rested = DemandSeen(last_ended=NOW - 1)
    seen = snapshot([function(demand=rested)], [worker("w0", resident=range(6))])
    assert kinds(next_steps(seen, NOW).steps) == ["Form"]


def test_where_loading_failed_it_is_not_tried_over_and_over() -> None:
    failed = replace(worker("w1"), holdings={"b": HoldingSeen(frozenset({1}), tuple(range(6)), error="bad disk")})
    seen = snapshot([function(scaling=Scaling(min_replicas=2))], [worker("w0", resident=range(6)), failed])
    seen = replace(seen, pipelines=(pipeline(Stage("w0", 0, 5)),), next_epoch=Epoch(1, 2))
    assert next_steps(seen, NOW).steps == ()
    only = replace(seen, workers=(failed,), pipelines=())
    (refusal,) = next_steps(only, NOW).refusals.values()
    assert refusal.message == "w1: bad disk"


def test_waking_is_due_when_the_first_function_goes_idle() -> None:
    functions = [function("f", demand=DemandSeen(last_ended=NOW - 5)), function("g", demand=DemandSeen(last_ended=NOW))]
    assert next_steps(snapshot(functions, [worker("w0")]), NOW).wake_at == NOW + 25
