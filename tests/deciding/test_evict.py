"""Who leaves when memory is short, and who does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from deciding.values import NOW, WAITING, function, model, pipeline, snapshot, worker
from forebay_api.conditions import Reason
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.cut import Cut, Refusal, best_cut
from forebay_operator.decide.evict import Eviction, evictions, idle
from forebay_operator.decide.place import nobody
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.seen import DemandSeen, HoldingSeen, Snapshot
from forebay_operator.decide.steps import Drain, Drop


def crowded(*, running: int = 0) -> Snapshot:
    """b is wanted; o (used long ago) and p fill w0 and w1; x, that nobody knows, is on w1, too."""
    models = [model(), model("o"), model("p")]
    full = frozenset(range(6))
    w0 = replace(worker("w0", memory=1500), holdings={"o": HoldingSeen(full), "p": HoldingSeen(full)})
    w1 = replace(worker("w1", memory=700), holdings={"p": HoldingSeen(full), "x": HoldingSeen(bytes_loaded=1)})
    seen = snapshot([function(demand=WAITING)], [w0, w1], models)
    backbones = {
        name: replace(known, last_used={"o": 1.0, "p": 2.0}.get(name, 0.0)) for name, known in seen.backbones.items()
    }
    serving = pipeline(Stage("w0", 0, 5), backbone="o", running=running, counter=7)
    return replace(seen, backbones=backbones, pipelines=(serving,), next_epoch=Epoch(1, 8))


def test_the_least_recently_used_leaves_and_only_where_it_must() -> None:
    seen = crowded()
    assert idle(seen, frozenset({"b"})) == ("x", "o", "p")
    known = seen.backbones["b"]

    def cut_with(rooms: Mapping[str, int]) -> Cut | Refusal:
        return best_cut(
            known.model, known.costs, seen.workers, max_stages=1, prompt_tokens=24, kv_tokens=64, room=rooms
        )

    assert evictions(seen, "b", frozenset(), 64, cut_with) == (Eviction("o", "w0"),)
    assert evictions(seen, "b", frozenset({"o"}), 64, cut_with) == (Eviction("p", "w0"),)
    assert evictions(seen, "b", frozenset({"o", "p"}), 64, cut_with) == ()


def test_what_serves_a_request_stays_and_the_next_one_leaves() -> None:
    assert idle(crowded(running=1), frozenset()) == ("x", "p")
    assert idle(crowded(), frozenset({"p"})) == ("x", "o")


def test_nothing_leaves_when_it_would_not_be_enough() -> None:
    seen = crowded()

    def refuse(_: object) -> object:
        return nobody(seen, "b")

    assert evictions(seen, "b", frozenset(), 64, refuse) == ()  # type: ignore[arg-type]


def test_idle_models_that_still_have_grace_make_room() -> None:
    rested = DemandSeen(last_ended=NOW - 1)
    w0 = worker("w0", memory=900, resident=range(6), backbone="o")
    seen = snapshot([function(demand=WAITING), function("g", backbone="o", demand=rested)], [w0], [model(), model("o")])
    seen = replace(seen, pipelines=(pipeline(Stage("w0", 0, 5), backbone="o"),), next_epoch=Epoch(1, 2))
    plan = next_steps(seen, NOW)
    assert plan.steps == (Drain(Epoch(1, 1)),)
    (refusal,) = plan.refusals.values()
    assert (refusal.reason, refusal.message) == (Reason.QUEUED, "models that are idle make room on w0")
    gone = replace(seen, pipelines=())
    assert next_steps(gone, NOW).steps == (Drop("w0", "o"),)
