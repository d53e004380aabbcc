"""Where the units are cut: exact, never worse than equal, and true to the closed forms where there are any."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deciding.values import model, worker
from forebay_api.conditions import Reason
from forebay_api.model import Model, Stage
from forebay_operator.decide.cut import (
    MARGIN,
    Cut,
    Refusal,
    best_cut,
    compute_seconds,
    equal_cut,
    predict,
    seconds_of,
)
from forebay_operator.decide.ledger import stage_kv_bytes, unit_bytes
from forebay_operator.decide.seen import Answer, Costs, Link, WorkerSeen
from forebay_operator.decide.sites import effective_rates

COSTS = Costs(layer=((1, 0.1), (101, 1.1)), head=((1, 0.3),), hop=0.05)
SIZES = st.lists(st.integers(0, 200), min_size=3, max_size=6)


def planned(answer: Cut | Refusal) -> Cut:
    assert isinstance(answer, Cut), answer
    return answer


def cuts(units: int, workers: Sequence[str]) -> Iterator[tuple[Stage, ...]]:
    for ends in combinations(range(units - 1), len(workers) - 1):
        firsts, lasts = [0, *(end + 1 for end in ends)], [*ends, units - 1]
        yield tuple(Stage(*stage) for stage in zip(workers, firsts, lasts, strict=True))


def fits(m: Model, workers: dict[str, WorkerSeen], stages: Sequence[Stage], tokens: int) -> bool:
    def needed(stage: Stage) -> int:
        held = workers[stage.worker].holdings.get("b")
        resident = held.resident if held else frozenset()
        return unit_bytes(m, resident.union(stage.units)) + stage_kv_bytes(m, stage, tokens)

    return all(needed(stage) <= workers[stage.worker].memory for stage in stages)


@st.composite
def fleets(draw: st.DrawFn, units: int) -> list[WorkerSeen]:
    shared = draw(st.sampled_from([100.0, 300.0]))
    return [
        worker(
            f"w{i}",
            rate=draw(st.sampled_from([50.0, 100.0, 220.0])),
            bucket=draw(st.sampled_from(["", "switch"])),
            bucket_rate=shared,
            memory=draw(st.sampled_from([150, 400, 10**6])),
            resident=sorted(draw(st.sets(st.integers(0, units - 1)))),
        )
        for i in range(draw(st.integers(1, 3)))
    ]


@settings(max_examples=200)
@given(data=st.data(), sizes=SIZES, tokens=st.sampled_from([0, 16]))
def test_it_is_exact_against_brute_force(data: st.DataObject, sizes: list[int], tokens: int) -> None:
    m = model(sizes=sizes)
    workers = {w.name: w for w in data.draw(fleets(len(sizes)))}
    owed = {name: data.draw(st.sampled_from([0, 0, 40, 300])) for name in workers}
    best: dict[int, float] = {}
    for count in range(1, len(workers) + 1):
        for order in permutations(workers, count):
            for stages in cuts(len(sizes), order):
                if fits(m, workers, stages, tokens):
                    predicted = predict(m, COSTS, workers, stages, 33, owed)
                    best[count] = min(best.get(count, inf), predicted.wait + predicted.first_token)
    fleet = list(workers.values())
    answer = best_cut(m, COSTS, fleet, max_stages=4, prompt_tokens=33, kv_tokens=tokens, owed=owed)
    if not best:
        assert isinstance(answer, Refusal)
        return
    found = planned(answer)
    fewest = min(count for count in best if best[count] <= min(best.values()) * (1 + MARGIN) + 1e-9)
    assert len(found.stages) == fewest
    assert found.prediction.wait + found.prediction.first_token == pytest.approx(best[fewest])
    assert fits(m, workers, found.stages, tokens)
    assert [unit for stage in found.stages for unit in stage.units] == list(range(len(sizes)))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 500), min_size=6, max_size=24), count=st.integers(1, 6), tokens=st.integers(1, 500)
)
def test_it_is_never_worse_than_the_equal_cut(sizes: list[int], count: int, tokens: int) -> None:
    m = model(sizes=sizes)
    workers = [worker(f"w{i}") for i in range(count)]
    named = {w.name: w for w in workers}
    equal = equal_cut(m, list(named))
    assert [unit for stage in equal for unit in stage.units] == list(range(len(sizes)))
    found = planned(best_cut(m, COSTS, workers, max_stages=count, prompt_tokens=tokens))
    compared = predict(m, COSTS, named, equal, tokens).first_token
    allowed = 1.0 if len(found.stages) == count else 1 + MARGIN
    assert found.prediction.first_token <= compared * allowed + 1e-9


def continuous(ratio: float, units: int = 240) -> tuple[Model, Costs]:
    """Many tiny equal units that take one second of compute together and ``ratio`` seconds over one link of 1 B/s."""
    size = round(ratio * 1000)
    m = model(sizes=[0, *[size] * units])
    cost = 1000.0 / units
    rate_of_link = units  # bytes per second, so that all of them take ``ratio`` * 1000 seconds
    assert m.link_bytes / rate_of_link == pytest.approx(ratio * 1000)
    return m, Costs(layer=((1, cost),), head=((1, cost),), hop=0.0)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("ratio", [3.0, 5.0, 10.0])
def test_shares_are_geometric_in_the_continuous_limit(ratio: float, count: int) -> None:
    m, costs = continuous(ratio)
    workers = [worker(f"w{i}", rate=240.0) for i in range(count)]
    found = planned(best_cut(m, costs, workers, max_stages=count, prompt_tokens=1))
    g = ratio / (ratio - 1)
    law = ratio * 1000 * g ** (count - 1) * (g - 1) / (g**count - 1)
    assert found.prediction.first_token == pytest.approx(law, rel=0.02)
    shares = [sum(unit != 0 for unit in stage.units) for stage in found.stages]
    expected = [240 * g**i * (g - 1) / (g**count - 1) for i in range(count)]
    assert shares == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("ratio", [0.3, 0.7, 1.0])
def test_more_workers_are_useless_when_computing_takes_longer_than_loading(ratio: float) -> None:
    m, costs = continuous(ratio, units=60)
    workers = [worker(f"w{i}", rate=60.0) for i in range(4)]
    assert len(planned(best_cut(m, costs, workers, max_stages=4, prompt_tokens=1)).stages) == 1


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 500), min_size=3, max_size=16),
    count=st.integers(2, 6),
    own=st.sampled_from([100.0, 400.0]),
)
def test_a_shared_bucket_predicts_no_gain_and_takes_one_worker(sizes: list[int], count: int, own: float) -> None:
    workers = [worker(f"w{i}", rate=own, bucket="disk", bucket_rate=100.0) for i in range(count)]
    found = planned(best_cut(model(sizes=sizes), COSTS, workers, max_stages=4, prompt_tokens=20))
    assert [stage.worker for stage in found.stages] == ["w0"]


def test_later_stages_get_more_bytes() -> None:
    m = model(sizes=[0, *[100] * 24, 100])
    workers = [worker(f"w{i}") for i in range(4)]
    costs = Costs(layer=((1, 0.2),), head=((1, 0.2),), hop=0.0)
    found = planned(best_cut(m, costs, workers, max_stages=4, prompt_tokens=1))
    shares = [len(stage.units) for stage in found.stages]
    assert shares[0] < shares[-1]


def test_a_big_head_gets_few_layers_beside_it() -> None:
    m = model(sizes=[0, *[100] * 30, 800])
    found = planned(best_cut(m, COSTS, [worker(f"w{i}") for i in range(4)], max_stages=4, prompt_tokens=1))
    assert len(found.stages[-1].units) < min(len(stage.units) for stage in found.stages[:-1])


def test_the_embedding_is_not_waited_for_but_must_land() -> None:
    m = model(sizes=[1000, 100, 100])
    found = planned(best_cut(m, Costs(), [worker("w0")], max_stages=1, prompt_tokens=1))
    assert found.prediction.first_token == pytest.approx(2.0)
    assert found.prediction.servable == pytest.approx(12.0)


def test_what_is_resident_has_landed_at_once() -> None:
    m = model(sizes=[0, 100, 100, 100])
    empty, full = worker("w0"), worker("w1", resident=range(4))
    found = planned(best_cut(m, Costs(), [empty, full], max_stages=2, prompt_tokens=1))
    assert found.stages == (Stage("w1", 0, 3),)
    assert found.prediction.servable == found.prediction.first_token == 0.0


def test_a_worker_of_unknown_rate_is_taken_for_fast() -> None:
    assert effective_rates([Link(0.0), Link(100.0, "s", 50.0), Link(10.0, "s", 50.0)]) == (inf, 25.0, 10.0)


def test_a_faster_link_loads_more() -> None:
    m = model(sizes=[0, *[100] * 20, 100])
    workers = [worker("slow", rate=50.0), worker("fast", rate=150.0)]
    found = planned(best_cut(m, Costs(), workers, max_stages=2, prompt_tokens=1))
    shares = {stage.worker: len(stage.units) for stage in found.stages}
    assert shares["fast"] > 2.5 * shares["slow"]


def test_beyond_four_candidates_the_fastest_and_the_holders_are_tried() -> None:
    m = model(sizes=[0, *[100] * 20, 100])
    crowd = [worker(f"w{i}", rate=50.0 + i) for i in range(6)]
    fast = [worker("fast", rate=400.0), worker("faster", rate=500.0)]
    found = planned(best_cut(m, Costs(), [*crowd, *fast], max_stages=2, prompt_tokens=1))
    assert {stage.worker for stage in found.stages} == {"fast", "faster"}
    holders = [worker("late", resident=range(11, 22)), worker("early", resident=range(0, 11))]
    found = planned(best_cut(m, Costs(), [*holders, *crowd], max_stages=2, prompt_tokens=1))
    assert [stage.worker for stage in found.stages] == ["early", "late"]


def test_memory_forces_stages_and_a_refusal_names_what_is_short() -> None:
    m = model(sizes=[0, *[100] * 6, 100])
    small = [worker(f"w{i}", memory=400, bucket="s", bucket_rate=100.0) for i in range(2)]
    assert len(planned(best_cut(m, Costs(), small, max_stages=4, prompt_tokens=1)).stages) == 2
    refused = best_cut(m, Costs(), small, max_stages=4, prompt_tokens=1, kv_tokens=64)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.INSUFFICIENT_GPUS
    assert "700 B of units and 384 B of KV" in refused.message
    assert "w1 400 B" in refused.message
    nobody = best_cut(m, Costs(), [], max_stages=4, prompt_tokens=1)
    assert isinstance(nobody, Refusal)
    assert nobody.reason is Reason.NO_WORKER


def test_room_overrides_what_memory_says() -> None:
    m = model(sizes=[0, 100, 100])
    workers = [worker("w0"), worker("w1")]
    found = planned(best_cut(m, Costs(), workers, max_stages=2, prompt_tokens=1, room={"w0": 0, "w1": 1000}))
    assert found.stages == (Stage("w1", 0, 2),)


def test_compute_is_interpolated_and_extrapolated() -> None:
    samples = ((10, 1.0), (20, 2.0), (40, 6.0))
    assert [seconds_of(samples, tokens) for tokens in (1, 10, 15, 30, 40, 50)] == [1.0, 1.0, 1.5, 4.0, 6.0, 8.0]
    assert seconds_of((), 5) == 0.0
    assert [seconds_of(((10, 1.0),), tokens) for tokens in (5, 10, 30)] == [1.0, 1.0, 3.0]
    assert seconds_of(((1, 5.0), (2, 1.0)), 100) == 0.0
    assert compute_seconds(model(sizes=[1, 1, 1]), COSTS, 51) == pytest.approx((0.0, 0.6, 0.3))


def test_an_equal_cut_leaves_no_worker_without_a_unit() -> None:
    one_each = (Stage("a", 0, 0), Stage("b", 1, 1), Stage("c", 2, 2))
    assert equal_cut(model(sizes=[0, 0, 1000]), ["a", "b", "c"]) == one_each
    assert equal_cut(model(sizes=[1000, 0, 0]), ["a", "b", "c"]) == one_each
    m = model(sizes=[0, *[10] * 8])
    assert [len(stage.units) for stage in equal_cut(m, ["a", "b"])] == [5, 4]


def test_a_link_that_others_were_promised_first_begins_later() -> None:
    m, workers = model(), [worker("w0"), worker("w1")]
    first = planned(best_cut(m, Costs(), workers, max_stages=1, prompt_tokens=1, owed={"w0": 100}))
    assert [stage.worker for stage in first.stages] == ["w1"]
    both = planned(best_cut(m, Costs(), workers, max_stages=2, prompt_tokens=1, owed={"w0": 250, "w1": 250}))
    free = planned(best_cut(m, Costs(), workers, max_stages=2, prompt_tokens=1))
    assert both.stages == free.stages
    assert both.prediction.wait == 2.5
    assert both.prediction.first_token == pytest.approx(free.prediction.first_token)
    assert both.prediction.servable == pytest.approx(free.prediction.servable)


def test_what_is_resident_waits_for_no_link() -> None:
    m, full = model(), worker("w0", resident=range(6))
    assert planned(best_cut(m, Costs(), [full], max_stages=1, prompt_tokens=1, owed={"w0": 900})).prediction == (
        planned(best_cut(m, Costs(), [full], max_stages=1, prompt_tokens=1)).prediction
    )


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[WorkerSeen], dict[str, int]]:
    """Up to eight workers of few kinds on two nodes, and what their links owe."""
    kinds = [
        replace(worker("", rate=rate, bucket=bucket, bucket_rate=300.0, memory=memory, resident=resident), node=node)
        for rate, bucket, memory, resident, node in draw(
            st.lists(
                st.tuples(
                    st.sampled_from([50.0, 100.0]),
                    st.sampled_from(["", "s", "t"]),
                    st.sampled_from([400, 10**6]),
                    st.sampled_from([(), (), (1, 2), (3, 4, 5)]),
                    st.sampled_from(["n", "m"]),
                ),
                min_size=1,
                max_size=3,
            )
        )
    ]
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=8))
    names = draw(st.permutations([f"w{place}" for place in range(len(chosen))]))
    owed = {name: draw(st.sampled_from([0, 0, 0, 200])) for name in names}
    return [replace(kind, name=name) for kind, name in zip(chosen, names, strict=True)], owed


@given(fleets=st.lists(crowds(), min_size=2, max_size=6), stages=st.integers(1, 4))
def test_what_was_searched_before_changes_no_answer(
    fleets: list[tuple[list[WorkerSeen], dict[str, int]]], stages: int
) -> None:
    answers: dict[Hashable, Answer] = {}
    for fleet, owed in fleets:
        anew = best_cut(model(), COSTS, fleet, max_stages=stages, prompt_tokens=33, owed=owed)
        again = best_cut(model(), COSTS, fleet, max_stages=stages, prompt_tokens=33, owed=owed, answers=answers)
        assert again == anew


def test_models_that_differ_in_nothing_but_their_weights_are_searched_once() -> None:
    """On workers, nodes and switches that differ in nothing but their names."""
    answers: dict[Hashable, Answer] = {}
    found = []
    for name in "ab":
        workers = [
            replace(worker(f"{name}{i}", rate=100.0 + i % 2, bucket=f"s{name}", bucket_rate=900.0), node=f"n{name}")
            for i in range(6)
        ]
        found.append(best_cut(model(name), COSTS, workers, max_stages=3, prompt_tokens=33, answers=answers))
    first, second = map(planned, found)
    assert len(answers) == 1
    assert [replace(stage, worker=f"b{stage.worker[1:]}") for stage in first.stages] == list(second.stages)
    assert len(second.stages) == 3
    assert first.prediction == second.prediction
    planned(best_cut(model("b"), Costs(), workers, max_stages=3, prompt_tokens=33, answers=answers))
    planned(best_cut(model("b"), COSTS, workers[:5], max_stages=2, prompt_tokens=33, answers=answers))
    assert len(answers) == 3
