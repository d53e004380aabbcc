"""Models that nobody names: how long they may still turn out to be somebody's, and that others get their room then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from deciding.values import WAITING, function, model, snapshot, worker
from forebay_operator.decide.doubt import UNASKED, UNTOLD, doubts
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.pressure import Turn, Turns
from forebay_operator.decide.seen import FunctionSeen, HoldingSeen, Snapshot
from forebay_operator.decide.steps import Drop, Hold

NOW = 2000.0
BEGAN = NOW - 5.0
UNKNOWN = function("f", backbone="")
IN_VAIN = replace(UNKNOWN, vain={"w9": 1.0})
UNREACHABLE = replace(UNKNOWN, trouble=("SourceUnavailable", "no route to host"), inspecting=True)
REFUSED = replace(UNKNOWN, failure=("ArtifactNotFound", "nothing there"))
NO_POOL = function("f", backbone="", pool="nope")


def held(functions: Sequence[FunctionSeen], *, pool: str = "a", since: float = BEGAN, ready: bool = True) -> Snapshot:
    """One worker of ``pool`` holds x, of which no function is known to be, and was first seen with it at ``since``."""
    holder = replace(worker("w0", memory=600, resident=range(6), backbone="x", ready=ready), pool=pool)
    return replace(snapshot(functions, [holder]), turns=Turns({"x": Turn({"w0": since})}))


@pytest.mark.parametrize(
    ("which", "seconds"),
    [
        (replace(UNKNOWN, inspecting=True), UNASKED),
        (IN_VAIN, UNTOLD),
        (UNREACHABLE, UNTOLD),
        (REFUSED, None),
        (function("f", backbone="x"), None),
        (replace(UNKNOWN, previous="x"), None),
        (NO_POOL, None),
    ],
)
def test_a_function_whose_model_is_not_known_holds_up_what_its_workers_hold_and_not_for_ever(
    which: FunctionSeen, seconds: float | None
) -> None:
    workers_pool = "a" if which is NO_POOL else ""
    found = doubts(held([which], pool=workers_pool), NOW)
    assert found == ({} if seconds is None else {"x": BEGAN + seconds})
    if seconds is not None:
        assert doubts(held([which], pool=workers_pool), BEGAN + seconds) == {}


def test_what_just_came_counts_from_now_and_what_leaves_or_takes_no_questions_not_at_all() -> None:
    seen = replace(held([UNKNOWN], pool=""), turns=Turns())
    assert doubts(seen, NOW) == {"x": NOW + UNASKED}
    assert doubts(held([UNKNOWN], pool="", ready=False), NOW) == {}
    assert doubts(held([IN_VAIN], pool="", ready=False), NOW) == {}
    leaving = seen.with_workers({"w0": replace(seen.named["w0"], holdings={"x": HoldingSeen(leaving=True)})})
    assert doubts(leaving, NOW) == {}
    assert doubts(held([function("f"), NO_POOL]), NOW) == {}


def test_who_waits_gets_the_room_of_a_deleted_functions_model_beside_one_that_nobody_can_inspect() -> None:
    asking = function("g", demand=WAITING, pool="a")
    for broken in (NO_POOL, replace(UNREACHABLE, function=NO_POOL.function)):
        plan = next_steps(held([asking, broken]), NOW)
        assert Drop("w0", "x") in plan.steps
    same_pool = replace(UNREACHABLE, function=function("f", backbone="", pool="a").function)
    plan = next_steps(held([asking, same_pool]), NOW)
    assert plan.steps == ()
    assert plan.payments == ()
    assert plan.wake_at is not None
    assert plan.wake_at <= BEGAN + UNTOLD
    assert Drop("w0", "x") in next_steps(held([asking, same_pool]), BEGAN + UNTOLD).steps


def test_other_payers_are_asked_while_one_is_in_doubt() -> None:
    asking, owner = function("g", demand=WAITING, pool="a"), function("o", backbone="o", pool="a")
    same_pool = replace(UNREACHABLE, function=function("f", backbone="", pool="a").function)
    seen = held([asking, owner, same_pool])
    idle = replace(worker("w1", memory=600, resident=range(6), backbone="o"), pool="a")
    both = snapshot([asking, owner, same_pool], [seen.workers[0], idle], [model(), model("o")])
    plan = next_steps(replace(both, turns=seen.turns), NOW)
    assert {step.worker for step in plan.steps if isinstance(step, Drop | Hold)} == {"w1"}
