"""Payments from pass to pass: what is promised to whom, until when, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from deciding.values import KNOWN, function, model, pipeline, snapshot, worker
from forebay_api.conditions import Reason
from forebay_api.function import Scaling
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.plan import Plan, next_steps
from forebay_operator.decide.pressure import AGING, PATIENCE, RESIDENCE, Payment, Turn, Turns
from forebay_operator.decide.seen import DemandSeen, FunctionSeen, HoldingSeen, PipelinePhase, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Drain, Drop, Form, Hold, Step
from forebay_operator.decide.turns import residence

NOW = 2000.0
RUNS = DemandSeen(in_flight=1, load=KNOWN)
ASKS = DemandSeen(waiting=1, oldest_waiting=NOW - 4, load=KNOWN)
IDLE = DemandSeen(last_ended=NOW - 1, load=KNOWN)
LONG_AGO = 1000.0


def held(name: str, backbone: str, *, memory: int = 900, pool: str = "") -> WorkerSeen:
    return replace(worker(name, memory=memory, resident=range(6), backbone=backbone), pool=pool)


def crowded(
    functions: Sequence[FunctionSeen], workers: Sequence[WorkerSeen], since: float | None = LONG_AGO
) -> Snapshot:
    """Every worker serves alone what it holds, since ``since`` (None: the operator just began)."""
    models = [model(name) for name in sorted({f.backbone for f in functions})]
    seen = snapshot(functions, workers, models)
    serving = [
        replace(pipeline(Stage(w.name, 0, 5), backbone=backbone, counter=place + 1, running=1), kv_blocks=4)
        for place, w in enumerate(workers)
        for backbone in w.holdings
    ]
    turns: dict[str, Turn] = {}
    if since is not None:
        for w in workers:
            for backbone in w.holdings:
                known = turns.get(backbone, Turn())
                turns[backbone] = Turn({**known.since, w.name: since})
    return replace(seen, pipelines=tuple(serving), next_epoch=Epoch(1, 50), turns=Turns(turns))


def paid(plan: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(payment.payer, payment.receiver, payment.workers) for payment in plan.payments]


def following(seen: Snapshot, plan: Plan, **changes: object) -> Snapshot:
    return replace(seen, turns=plan.turns, **changes)  # type: ignore[arg-type]


def phases(seen: Snapshot, phase: PipelinePhase, counter: int = 1) -> Snapshot:
    changed = (replace(p, phase=phase) if p.epoch.counter == counter else p for p in seen.pipelines)
    return replace(seen, pipelines=tuple(changed))


def drained(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if isinstance(step, Drain)]


F, G = function("f", backbone="f", demand=RUNS), function("g", backbone="g", demand=ASKS)


def test_one_that_had_its_turn_drains_and_the_other_is_told_what_it_waits_for() -> None:
    plan = next_steps(crowded([F, G], [held("w0", "f")]), NOW)
    assert plan.steps == (Drain(Epoch(1, 1)),)
    (payment,) = plan.payments
    assert payment == Payment("f", "g", ("w0",), "default/f had its turn; default/g has waited 4.0 s", NOW, dear=True)
    said = {key.name: (refusal.reason, refusal.message) for key, refusal in plan.refusals.items()}
    assert said["g"] == (Reason.QUEUED, "default/f makes room on w0")
    assert said["f"] == (Reason.QUEUED, "every worker that could hold the model makes room for others")
    assert plan.wake_at is not None
    assert plan.wake_at <= NOW + PATIENCE


def test_an_operator_that_began_counts_the_residence_from_then() -> None:
    seen = crowded([F, G], [held("w0", "f")], since=None)
    plan = next_steps(seen, NOW)
    assert (plan.steps, plan.payments) == ((), ())
    (refusal,) = plan.refusals.values()
    assert (refusal.reason, refusal.message) == (Reason.QUEUED, "waits until default/f had its turn on a worker")
    assert plan.turns.of["f"].since == {"w0": NOW}
    assert paid(next_steps(following(seen, plan), NOW + RESIDENCE)) == [("f", "g", ("w0",))]


def test_what_takes_long_to_load_stays_longer() -> None:
    seen = crowded([F], [held("w0", "f")])
    slow = replace(seen.workers[0], link=replace(seen.workers[0].link, rate=4.6))
    assert residence(seen.backbones["f"], slow) == pytest.approx(2 * 100.0)
    assert residence(seen.backbones["f"], replace(slow, link=replace(slow.link, rate=0.0))) == RESIDENCE
    assert residence(None, slow) == 0.0


def test_lower_priority_waits_until_priority_counts_no_more() -> None:
    high = function("f", backbone="f", demand=RUNS, priority=1)
    seen = crowded([high, G], [held("w0", "f")])
    plan = next_steps(seen, NOW)
    assert plan.payments == ()
    (refusal,) = plan.refusals.values()
    assert refusal.message.startswith("functions of higher priority have the devices")
    since = plan.turns.of["g"].lacking
    assert since == NOW - 4
    plan = next_steps(following(seen, plan), since + AGING)
    assert plan.payments[0].why.startswith("default/f has priority 1, which counts no more after 120 s of waiting")


def test_a_payment_is_asked_for_once_and_looked_at_anew_after_a_while() -> None:
    functions = [F, G, function("h", backbone="h", demand=RUNS)]
    seen = crowded(functions, [held("w0", "f"), held("w1", "h")])
    plan = next_steps(seen, NOW)
    assert paid(plan) == [("f", "g", ("w0",))]
    seen = phases(following(seen, plan), PipelinePhase.DRAINING)
    plan = next_steps(seen, NOW + 1)
    assert (plan.steps, plan.payments) == ((), ())
    assert len(plan.turns.payments) == 1
    seen = following(seen, plan)
    plan = next_steps(seen, NOW + PATIENCE)
    assert plan.steps == ()
    assert [(payment.payer, payment.at) for payment in plan.turns.payments] == [("f", NOW + PATIENCE)]


def test_who_is_idle_by_now_pays_instead_of_who_has_not_left_yet() -> None:
    functions = [F, G, function("h", backbone="h", demand=RUNS)]
    seen = crowded(functions, [held("w0", "f"), held("w1", "h")])
    plan = next_steps(seen, NOW)
    draining, serving = phases(following(seen, plan), PipelinePhase.DRAINING).pipelines
    idle = following(
        seen,
        plan,
        functions=(F, G, function("h", backbone="h", demand=IDLE)),
        pipelines=(draining, replace(serving, running=0)),
    )
    plan = next_steps(idle, NOW + 1)
    assert paid(plan) == [("h", "g", ("w1",))]
    assert drained(plan) == [Drain(Epoch(1, 2))]
    # And the first one may use again what it had, when the last of its requests has ended.
    ended = replace(following(idle, plan), pipelines=idle.pipelines[1:])
    (form,) = (step for step in next_steps(ended, NOW + 1).steps if isinstance(step, Form))
    assert (form.backbone, form.stages) == ("f", (Stage("w0", 0, 5),))


def test_a_payment_is_void_when_nobody_waits_for_it_any_more() -> None:
    seen = crowded([F, G], [held("w0", "f")])
    plan = next_steps(seen, NOW)
    quiet = replace(seen, functions=(F, function("g", backbone="g", demand=DemandSeen(load=KNOWN))))
    plan = next_steps(following(quiet, plan), NOW + 1)
    assert (plan.steps, plan.turns.payments) == ((), ())


def test_a_payment_is_void_when_its_worker_is_gone() -> None:
    seen = crowded([F, G, function("h", backbone="h", demand=RUNS)], [held("w0", "f"), held("w1", "h")])
    plan = next_steps(seen, NOW)
    gone = replace(seen, workers=seen.workers[1:], pipelines=seen.pipelines[1:])
    assert paid(next_steps(following(gone, plan), NOW + 1)) == [("h", "g", ("w1",))]


def test_who_paid_does_not_grab_it_back_and_rests() -> None:
    seen = crowded([F, G, function("h", backbone="h", demand=RUNS)], [held("w0", "f"), held("w1", "h")])
    plan = next_steps(seen, NOW)
    empty = replace(worker("w0", memory=900), prepared=frozenset("fgh"))
    waits = replace(F, demand=replace(ASKS, oldest_waiting=NOW - 100))  # some of its requests were held for long
    seen = following(seen, plan, functions=(waits, *seen.functions[1:]), workers=(empty, seen.workers[1]))
    seen = replace(seen, pipelines=seen.pipelines[1:])
    plan = next_steps(seen, NOW + 1)
    assert {step.backbone for step in plan.steps if isinstance(step, Hold | Form)} == {"g"}
    assert plan.payments == ()  # though h had its turn: who has just paid asks none of its equals
    assert plan.turns.of["f"].lacking == NOW + 1


def test_higher_priority_takes_over_what_was_promised() -> None:
    top = function("t", backbone="t", demand=ASKS, priority=5)
    seen = crowded([F, G, function("t", backbone="t")], [held("w0", "f")])
    plan = next_steps(seen, NOW)
    assert paid(plan) == [("f", "g", ("w0",))]
    plan = next_steps(following(seen, plan, functions=(F, G, top)), NOW + 1)
    assert paid(plan) == [("f", "t", ("w0",))]
    assert [payment.receiver for payment in plan.turns.payments] == ["t"]


def test_what_is_promised_is_not_taken_by_who_comes_later() -> None:
    """w0 is empty by now, w1 not yet: g needs both, and h would fit on w0."""
    large, later = model("g", sizes=(10, 300, 300, 300, 300, 50)), function("h", backbone="h", demand=RUNS)
    seen = crowded([F, G, later], [held("w0", "f"), held("w1", "f")])
    seen = replace(seen, backbones={**seen.backbones, "g": replace(seen.backbones["g"], model=large)})
    plan = next_steps(seen, NOW)
    assert paid(plan) == [("f", "g", ("w0", "w1"))]
    asks = replace(later, demand=replace(ASKS, oldest_waiting=NOW))
    empty = replace(worker("w0", memory=900), prepared=frozenset("fgh"))
    seen = following(seen, plan, functions=(F, G, asks), workers=(empty, seen.workers[1]))
    plan = next_steps(phases(replace(seen, pipelines=seen.pipelines[1:]), PipelinePhase.DRAINING, 2), NOW + 1)
    assert not any(isinstance(step, Hold | Form) for step in plan.steps)
    assert sorted(key.name for key in plan.refusals) == ["f", "g", "h"]


def test_workers_of_other_pools_are_never_asked() -> None:
    far = [function("f", backbone="f", demand=IDLE, pool="q"), function("g", backbone="g", demand=ASKS, pool="p")]
    seen = crowded(far, [held("w0", "f", pool="q"), held("w1", "f", pool="p")])
    assert paid(next_steps(replace(seen, pipelines=()), NOW)) == [("f", "g", ("w1",))]
    only = crowded(far, [held("w0", "f", pool="q")])
    assert next_steps(only, NOW).payments == ()


def test_a_shared_model_has_the_priority_of_its_highest_function_that_is_active() -> None:
    low = function("f", backbone="f", demand=ASKS)
    high = function("g", backbone="f", demand=ASKS, priority=3)
    busy = function("h", backbone="h", demand=RUNS, priority=2)
    assert paid(next_steps(crowded([low, high, busy], [held("w0", "h")]), NOW)) == [("h", "f", ("w0",))]
    resting = replace(high, demand=DemandSeen(load=KNOWN))
    assert next_steps(crowded([low, resting, busy], [held("w0", "h")]), NOW).payments == ()


@pytest.mark.parametrize(("least", "shares"), [(0, "needs 1"), (2, "needs 2")])
def test_surplus_says_what_is_needed(least: int, shares: str) -> None:
    many = function("f", backbone="f", demand=RUNS, scaling=Scaling(min_replicas=least))
    plan = next_steps(crowded([many, G], [held(f"w{i}", "f") for i in range(3)]), NOW)
    (payment,) = plan.payments
    assert payment.why == f"default/f has 3 workers and {shares}; default/g has waited 4.0 s"


def test_what_nobody_names_any_more_is_idle() -> None:
    gone = replace(worker("w0", memory=900), holdings={"x": HoldingSeen(bytes_loaded=800)})
    asking = function("g", backbone="g", demand=ASKS)
    seen = replace(snapshot([asking], [gone], [model("g")]), turns=Turns())
    plan = next_steps(seen, NOW)
    (payment,) = plan.payments
    assert Drop("w0", "x") in plan.steps
    assert payment.why == "a model that nobody uses is idle; default/g has waited 4.0 s"


def test_turns_of_what_is_gone_are_forgotten() -> None:
    seen = replace(snapshot([], [worker("w0")]), turns=Turns({"x": Turn({"w0": 1.0}), "y": Turn(paid=NOW - 1)}))
    turns: Mapping[str, Turn] = next_steps(seen, NOW).turns.of
    assert turns == {"y": Turn(paid=NOW - 1)}
    assert next_steps(replace(seen, turns=Turns(turns)), NOW + RESIDENCE).turns.of == {}
