"""What was told and not yet seen, and when it is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deciding.values import STAGES, function, pipeline, snapshot, worker
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.intents import applied, settled
from forebay_operator.decide.ledger import book
from forebay_operator.decide.place import candidates
from forebay_operator.decide.recover import broken
from forebay_operator.decide.seen import HoldingSeen, PipelinePhase, Snapshot
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


NAMES = st.sampled_from(["w0", "w1", "w2", "gone"])
BACKBONES = st.sampled_from(["b", "o"])
EPOCHS = st.builds(Epoch, st.just(1), st.integers(1, 6))
CUTS = st.sampled_from([(Stage("w0", 0, 5),), (Stage("w1", 0, 5),), STAGES, (Stage("w2", 0, 2), Stage("w0", 3, 5))])
ANY_STEP = st.one_of(
    st.builds(Hold, NAMES, BACKBONES, st.sampled_from([(), (1, 2, 0), tuple(range(6))]), st.just(0)),
    st.builds(Drop, NAMES, BACKBONES, st.sampled_from([(), (1, 2)])),
    st.builds(Prepare, NAMES, BACKBONES, st.booleans()),
    st.builds(lambda epoch, backbone, stages: Form(epoch, backbone, stages, 4, 16, 2, 64), EPOCHS, BACKBONES, CUTS),
    st.builds(Drain, EPOCHS),
    st.builds(Dissolve, EPOCHS),
)


def worked_out(seen: Snapshot) -> dict[str, object]:
    """All that a snapshot is asked over and over."""
    return {
        "places": seen.places,
        "pooled": seen.pooled,
        "named": seen.named,
        "holders": seen.holders,
        "ready": seen.ready("default"),
        "by backbone": seen.by_backbone,
        "by worker": {name: pipelines for name, pipelines in seen.by_worker.items() if pipelines},
        "served": {name: backbones for name, backbones in seen.served.items() if backbones},
        "broken": [broken(seen, pipeline) for pipeline in seen.pipelines],
        "books": [book(seen, worker) for worker in seen.workers],
        "candidates": [candidates(seen, "b", banned) for banned in (frozenset(), frozenset({"w1"}))],
    }


@given(st.lists(ANY_STEP, max_size=8))
def test_what_follows_says_the_same_as_what_is_made_anew(steps: list[Step]) -> None:
    """However much of it was taken over from the snapshot before."""
    pooled = replace(worker("w2", memory=900), pool="p")
    held = worker("w0", resident=range(6)), worker("w1", resident=[1], order=[2]), pooled
    there = pipeline(Stage("w0", 0, 5), counter=1), pipeline(*STAGES, counter=2, told_only=True)
    seen = replace(snapshot([function()], held), pipelines=there, next_epoch=Epoch(1, 7))
    for step in steps:
        worked_out(seen)
        seen = applied(seen, [step])
        assert worked_out(seen) == worked_out(replace(seen))
