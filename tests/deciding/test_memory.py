"""KV quotas, steps in flight, and the ledger of device memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deciding.values import function, model, snapshot, worker
from forebay_api.model import Epoch, Stage
from forebay_operator.decide.kv import Quota, min_tokens, quota, steps_in_flight
from forebay_operator.decide.ledger import BLOCK_TOKENS, holding_bytes, kv_reserved, owed, room, stage_kv_bytes
from forebay_operator.decide.seen import HoldingSeen, PipelinePhase, PipelineSeen

LONG = model(context=8192)


def test_a_pipeline_takes_what_it_wants_when_there_is_room() -> None:
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": 10**9}, 8192) == Quota(1024, 8192)
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": 10**9}, 32768) == Quota(2048, 32768)


def test_it_leaves_half_of_what_is_left() -> None:
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": 4 * 8000 * 2}, 8192) == Quota(500, 8000)


def test_the_smallest_stage_decides() -> None:
    stages = [Stage("w0", 0, 1), Stage("w1", 2, 5)]
    assert quota(LONG, stages, {"w0": 10**9, "w1": 3 * 4000 * 2}, 8192) == Quota(250, 4000)


def test_below_the_least_it_does_not_fit() -> None:
    least = 4 * 2048
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": least}, 8192) == Quota(128, 2048)
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": least - 1}, 8192) is None
    assert quota(LONG, [Stage("w0", 0, 5)], {"w0": -5}, 8192) is None


def test_a_stage_without_layers_needs_no_kv() -> None:
    assert quota(LONG, [Stage("w0", 0, 4), Stage("w1", 5, 5)], {"w0": 10**9, "w1": 0}, 100) == Quota(1024, 100)


def test_a_short_context_needs_whole_blocks_of_it_only() -> None:
    assert min_tokens(100) == 112
    assert min_tokens(100_000) == 2048


@given(
    rooms=st.lists(st.integers(-100, 10**6), min_size=1, max_size=4),
    context=st.integers(1, 40_000),
)
def test_kv_never_takes_more_than_there_is(rooms: list[int], context: int) -> None:
    ends = [*[1, 2, 3][: len(rooms) - 1], 5]
    firsts = [0, *(end + 1 for end in ends[:-1])]
    stages = [Stage(f"w{i}", first, last) for i, (first, last) in enumerate(zip(firsts, ends, strict=True))]
    found = quota(LONG, stages, {f"w{i}": free for i, free in enumerate(rooms)}, context)
    if found is not None:
        tokens = found.blocks * BLOCK_TOKENS
        assert found.max_model_len <= min(context, tokens)
        assert all(
            stage_kv_bytes(LONG, stage, tokens) <= rooms[i] for i, stage in enumerate(stages) if len(stage.units)
        )


@pytest.mark.parametrize(
    ("compute", "steps"),
    [
        ([{"c0", "c1"}] * 4, 1),
        ([{"g0"}, {"g1"}, {"g2"}], 3),
        ([{"g0"}, {"g1"}, {"g0"}], 2),
        ([{"a"}, {"b"}, {"a", "b"}], 1),
        ([{"a", "b"}, {"c"}, {"b", "c"}, {"d"}], 2),
        ([set(), set()], 2),
        ([], 1),
    ],
)
def test_stages_that_share_compute_count_once(compute: list[set[str]], steps: int) -> None:
    assert steps_in_flight(map(frozenset, compute)) == steps


def pipeline(*stages: Stage, backbone: str = "b", counter: int = 1, kv_blocks: int = 4) -> PipelineSeen:
    return PipelineSeen(Epoch(1, counter), backbone, stages, PipelinePhase.FORMED, kv_blocks=kv_blocks)


def test_kv_counts_whether_reported_or_only_told() -> None:
    told = pipeline(Stage("w0", 0, 2), Stage("w1", 3, 5))
    seen = replace(snapshot((), [worker("w0"), worker("w1")]), pipelines=(told,))
    assert [kv_reserved(seen, w) for w in seen.workers] == [2 * 64, 2 * 64]
    reporting = replace(seen.workers[0], kv_bytes={told.epoch: 100, Epoch(1, 9): 7})
    assert kv_reserved(seen, reporting) == 107
    unknown = replace(seen, pipelines=(pipeline(Stage("w0", 0, 2), backbone="x"),))
    assert kv_reserved(unknown, unknown.workers[0]) == 0


def test_room_counts_what_others_hold_and_were_told_and_will_need_to_serve_alone() -> None:
    other = model("o", sizes=(0, 10, 20, 30))
    base = worker("w0", memory=10_000, resident=[1], order=[1, 2])
    filling = replace(base, holdings={**base.holdings, "o": HoldingSeen(frozenset({1}), (1, 2, 3, 0))})
    seen = snapshot([function()], [filling], [model(), other])
    assert holding_bytes(seen, filling, "o") == 60 + 2 * 64
    assert holding_bytes(seen, filling, "nothing") == 0
    assert room(seen, filling, "b") == 10_000 - 188 - 100
    assert room(seen, filling, "o") == 10_000 - 200 - 10
    alone = replace(seen, pipelines=(pipeline(Stage("w0", 0, 3), backbone="o", kv_blocks=0),))
    assert holding_bytes(alone, filling, "o") == 60


def test_what_nobody_knows_counts_by_the_bytes_it_loaded() -> None:
    held = replace(worker("w0", memory=1000), holdings={"x": HoldingSeen(bytes_loaded=300)})
    seen = snapshot((), [held])
    assert room(seen, held, "b") == 700
    assert room(seen, held, "x") == 700


@pytest.mark.parametrize(
    ("held", "bytes_owed"),
    [
        (HoldingSeen(order=(1, 2, 3, 0), urgent=3), 300),
        (HoldingSeen(order=(1, 2, 3, 0), urgent=4), 310),
        (HoldingSeen(frozenset({1}), (1, 2, 3, 0), 3, bytes_loaded=100), 200),
        (HoldingSeen(frozenset({1}), (1, 2, 3, 0), 3, bytes_loaded=160), 140),
        (HoldingSeen(frozenset({1, 2, 3}), (1, 2, 3, 0), 3, bytes_loaded=305), 0),
        (HoldingSeen(frozenset(range(6)), (1, 2, 3, 0, 4, 5), 3, bytes_loaded=460), 0),
        (HoldingSeen(order=(1, 2, 3, 0)), 0),
        (HoldingSeen(order=(1, 2), urgent=2, error="InvalidCheckpoint: truncated"), 0),
        (HoldingSeen(order=(1, 2), urgent=2, leaving=True), 0),
    ],
)
def test_a_link_owes_what_is_urgent_of_others_and_has_not_come(held: HoldingSeen, bytes_owed: int) -> None:
    seen = snapshot((), [replace(worker("w0"), holdings={"b": held, "unknown": replace(held)})])
    assert owed(seen, seen.workers[0], "another") == bytes_owed
    assert owed(seen, seen.workers[0], "b") == 0
