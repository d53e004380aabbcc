"""Who makes room when memory is short, where, and who does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from deciding.values import NOW, WAITING, function, model, pipeline, snapshot, worker
from forebay_api.conditions import Reason
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.cut import Cut, Refusal, best_cut
from forebay_operator.decide.evict import for_first, for_more
from forebay_operator.decide.place import nobody
from forebay_operator.decide.plan import next_steps
from forebay_operator.decide.pressure import Claim, Kind, Stake, payable
from forebay_operator.decide.seen import DemandSeen, HoldingSeen, Snapshot
from forebay_operator.decide.stakes import stakes
from forebay_operator.decide.steps import Drain, Drop
from forebay_operator.decide.want import Want

ALL = frozenset(range(6))
B = Want("b", desired=1, max_model_len=64, pressing=True)


def crowded(*, running: int = 0) -> Snapshot:
    """b is wanted; o (used long ago) and p fill w0 and w1; x, that nobody knows, is on w1, too."""
    models = [model(), model("o"), model("p")]
    w0 = replace(worker("w0", memory=1500), holdings={"o": HoldingSeen(ALL), "p": HoldingSeen(ALL)})
    w1 = replace(worker("w1", memory=700), holdings={"p": HoldingSeen(ALL), "x": HoldingSeen(bytes_loaded=1)})
    seen = snapshot([function(demand=WAITING)], [w0, w1], models)
    backbones = {
        name: replace(known, last_used={"o": 1.0, "p": 2.0}.get(name, 0.0)) for name, known in seen.backbones.items()
    }
    serving = pipeline(Stage("w0", 0, 5), backbone="o", running=running, counter=7)
    return replace(seen, backbones=backbones, pipelines=(serving,), next_epoch=Epoch(1, 8))


def able(seen: Snapshot, *wants: Want) -> tuple[Stake, ...]:
    """``wants``: of what is wanted at all."""
    wanted = {name: Want(name) for name in seen.holders} | {want.backbone: want for want in wants}
    return payable(Claim("b", waiting=True), stakes(seen, wanted.values(), {}, NOW), NOW)


def leaving(seen: Snapshot, *wants: Want) -> list[tuple[str, str]]:
    known = seen.backbones["b"]

    def cut_with(rooms: Mapping[str, int]) -> Cut | Refusal:
        return best_cut(
            known.model, known.costs, seen.workers, max_stages=1, prompt_tokens=24, kv_tokens=64, room=rooms
        )

    return [(s.backbone, s.worker) for s in for_first(seen, B, able(seen, *wants), frozenset(), cut_with)]


def test_the_longest_unused_leaves_and_only_where_it_must() -> None:
    seen = crowded()
    assert list(dict.fromkeys(stake.backbone for stake in able(seen))) == ["x", "o", "p"]
    assert leaving(seen) == [("o", "w0")]
    busy = [Want(name, desired=1, pressing=True) for name in ("o", "p")]
    assert leaving(seen, busy[0]) == [("p", "w0")]
    assert leaving(seen, *busy) == []


def test_what_is_cheap_to_bring_back_leaves_before_what_was_unused_for_a_little_longer() -> None:
    small = model("s", sizes=(1, 10, 10, 10, 10, 5))
    held = {"o": HoldingSeen(ALL), "s": HoldingSeen(ALL)}
    seen = snapshot([], [replace(worker("w0"), holdings=held)], [model(), model("o"), small])
    used = {
        name: replace(known, last_used={"o": 1500.0, "s": 1900.0}.get(name, 0.0))
        for name, known in seen.backbones.items()
    }
    assert [stake.backbone for stake in able(replace(seen, backbones=used))] == ["s", "o"]
    used["o"] = replace(used["o"], last_used=1000.0)
    assert [stake.backbone for stake in able(replace(seen, backbones=used))] == ["o", "s"]


def test_nothing_leaves_when_it_would_not_be_enough() -> None:
    seen = crowded()

    def refuse(_: object) -> Refusal:
        return nobody(seen, "b")

    assert for_first(seen, B, able(seen), frozenset(), refuse) == []


def test_no_more_leaves_than_the_last_one_leaves_necessary() -> None:
    """On w0 the small one is asked first, and then is not needed beside the large one."""
    small, large = model("s", sizes=(1, 10, 10, 10, 10, 5)), model("l", sizes=(10, 200, 200, 200, 200, 50))
    held = {"s": HoldingSeen(ALL), "l": HoldingSeen(ALL)}
    seen = snapshot([], [replace(worker("w0", memory=1600), holdings=held)], [model(), small, large])
    first, second = Stake("s", "w0", Kind.IDLE, score=9.0), Stake("l", "w0", Kind.IDLE)
    assert for_more(seen, B, [first, second], frozenset()) == [second]
    assert for_more(seen, B, [first], frozenset()) == []
    assert for_more(seen, B, [], frozenset()) == []
    assert for_more(seen, B, [first, second], frozenset({"w0"})) == []


def test_one_worker_of_those_with_requests_is_enough_where_the_model_fits() -> None:
    workers = [worker(f"w{i}", memory=900, resident=range(6), backbone="o") for i in range(3)]
    seen = snapshot([], workers, [model(), model("o")])
    paying = [Stake("o", f"w{i}", Kind.SURPLUS, place=i) for i in range(3)]

    def cut_with(rooms: Mapping[str, int]) -> Cut | Refusal:
        raise AssertionError("no cut is needed")

    assert for_first(seen, B, paying, frozenset(), cut_with) == paying[:1]


def test_a_model_larger_than_a_worker_gets_as_many_as_it_takes() -> None:
    workers = [worker(f"w{i}", memory=460, resident=range(6), backbone="o") for i in range(4)]
    seen = snapshot([], workers, [model(), model("o")])
    known = seen.backbones["b"]
    paying = [Stake("o", f"w{i}", Kind.SURPLUS, place=i) for i in range(4)]

    def cut_with(rooms: Mapping[str, int]) -> Cut | Refusal:
        return best_cut(known.model, known.costs, workers, max_stages=4, prompt_tokens=24, kv_tokens=64, room=rooms)

    assert for_first(seen, B, paying, frozenset(), cut_with) == paying[:2]


def test_idle_models_that_still_have_grace_make_room() -> None:
    rested = DemandSeen(last_ended=NOW - 1)
    w0 = worker("w0", memory=900, resident=range(6), backbone="o")
    seen = snapshot([function(demand=WAITING), function("g", backbone="o", demand=rested)], [w0], [model(), model("o")])
    seen = replace(seen, pipelines=(pipeline(Stage("w0", 0, 5), backbone="o"),), next_epoch=Epoch(1, 2))
    plan = next_steps(seen, NOW)
    assert plan.steps == (Drain(Epoch(1, 1)),)
    (refusal,) = plan.refusals.values()
    assert (refusal.reason, refusal.message) == (Reason.QUEUED, "default/g makes room on w0")
    (payment,) = plan.payments
    assert payment.why == "default/g is idle; default/f has waited 0.0 s"
    gone = replace(seen, pipelines=(), turns=plan.turns)
    assert next_steps(gone, NOW).steps == (Drop("w0", "o"),)
    assert next_steps(gone, NOW).payments == ()
