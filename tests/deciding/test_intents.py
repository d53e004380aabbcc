"""What was told and not yet seen, and when it is."""

from __future__ import annotations

from dataclasses import replace

from deciding.values import STAGES, function, pipeline, snapshot, worker
from forebay_api.model import Epoch
from forebay_operator.decide.intents import applied, settled
from forebay_operator.decide.seen import HoldingSeen, PipelinePhase
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prepare, Step

FORM = Form(Epoch(1, 1), "b", STAGES, 4, 16, 2, 64)
STEPS: list[Step] = [
    Inspect("w0", "file:///b", "auto"),
    Prepare("w0", "b", True),
    Hold("w0", "b", (1, 2, 0), 3),
    Form(Epoch(1, 1), "b", STAGES, 4, 16, 2, 64),
]


def test_what_was_told_is_seen_as_told_once_however_often() -> None:
    seen = snapshot([function(), function("other", backbone="o")], [worker("w0"), worker("w1")])
    after = applied(seen, STEPS)
    assert [f.inspecting for f in after.functions] == [True, False]
    assert after.workers[0].probed == {"b"}
    assert after.workers[0].holdings["b"] == HoldingSeen(order=(1, 2, 0), urgent=3)
    assert after.pipelines == (pipeline(*STAGES, told_only=True),)
    assert after.next_epoch == Epoch(1, 2)
    assert applied(after, STEPS) == after
    assert applied(after, [Drain(Epoch(1, 9))]) == after
    drained = applied(after, [Drain(Epoch(1, 1))])
    assert drained.pipelines[0].phase is PipelinePhase.DRAINING
    assert applied(drained, [Drain(Epoch(1, 1))]) == drained
    assert applied(after, [Dissolve(Epoch(1, 1))]).pipelines == ()


def test_a_drop_takes_the_order_at_once_and_the_memory_later() -> None:
    seen = snapshot((), [worker("w0", resident=[1, 2], order=[1, 2, 3])])
    assert applied(seen, [Drop("w0", "nothing")]) == seen
    whole = applied(seen, [Drop("w0", "b")]).workers[0].holdings["b"]
    assert whole == HoldingSeen(frozenset({1, 2}), leaving=True)
    part = applied(seen, [Drop("w0", "b", (2, 3))]).workers[0].holdings["b"]
    assert part == HoldingSeen(frozenset({1, 2}), (1,))


def test_a_step_is_settled_when_reports_show_it() -> None:
    bare = replace(snapshot([function(backbone="")], [worker("w0"), worker("w1")]), backbones={})
    bare = replace(bare, workers=tuple(replace(w, prepared=frozenset()) for w in bare.workers))
    inspect = Inspect("w0", bare.functions[0].function.spec.model.uri, "auto")
    assert not settled(bare, inspect)
    assert settled(replace(bare, functions=()), inspect)
    for step in (Prepare("w0", "b", False), Prepare("w0", "b", True), Hold("w0", "b", (1,), 1)):
        assert not settled(bare, step)
        assert settled(applied(bare, [step]), step)
        assert settled(replace(bare, workers=()), step)
    assert not settled(bare, FORM)
    told = applied(bare, [FORM])
    assert not settled(told, FORM)
    formed = replace(told, pipelines=(pipeline(*STAGES),))
    assert settled(formed, FORM)
    assert not settled(formed, Drain(FORM.epoch))
    assert not settled(formed, Dissolve(FORM.epoch))
    assert settled(applied(formed, [Drain(FORM.epoch)]), Drain(FORM.epoch))
    assert settled(bare, Drain(FORM.epoch))
    assert settled(bare, Dissolve(FORM.epoch))


def test_a_drop_is_settled_when_the_units_are_gone() -> None:
    seen = snapshot((), [worker("w0", resident=[1, 2])])
    assert not settled(seen, Drop("w0", "b"))
    assert not settled(seen, Drop("w0", "b", (2,)))
    assert settled(seen, Drop("w0", "b", (3,)))
    assert settled(seen, Drop("w0", "o"))
    assert settled(snapshot(), Drop("w0", "b"))
