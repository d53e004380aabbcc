"""How many replicas, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deciding.values import function, snapshot, worker
from forebay_api.function import LoadingStrategy, Scaling
from forebay_operator.decide.load import Load
from forebay_operator.decide.scale import Scale, Why, desired
from forebay_operator.decide.seen import DemandSeen, FunctionSeen
from forebay_operator.decide.want import wants

NOW = 10_000.0


@pytest.mark.parametrize(
    ("seen", "current", "replicas", "reason"),
    [
        (function(), 0, 0, "no request yet"),
        (function(demand=DemandSeen(waiting=1)), 0, 1, "1 request at target 16: 1 replica"),
        (function(demand=DemandSeen(waiting=1, in_flight=2)), 0, 1, "3 requests at target 16: 1 replica"),
        (function(demand=DemandSeen(in_flight=33)), 1, 3, "33 requests at target 16: 3 replicas"),
        (function(demand=DemandSeen(in_flight=99)), 1, 4, "99 requests at target 16: 7 replicas; maxReplicas is 4"),
        (function(scaling=Scaling(min_replicas=2)), 0, 2, "no request yet; minReplicas is 2"),
        (function(replicas=7, demand=DemandSeen(waiting=1)), 0, 7, "pinned to 7 replicas"),
        (function(replicas=0, demand=DemandSeen(waiting=1)), 1, 0, "pinned to 0 replicas"),
        (function(suspend=True, demand=DemandSeen(waiting=1)), 1, 0, "suspended"),
        (function(failure=("ArtifactNotFound", "no such folder")), 1, 0, "failed: ArtifactNotFound"),
        (function(demand=DemandSeen(last_ended=NOW - 30)), 1, 0, "idle for 30 s"),
        (
            function(demand=DemandSeen(last_ended=NOW - 29)),
            1,
            1,
            "idle, kept for 30 s after the last request: 1 replica",
        ),
        (
            function(demand=DemandSeen(last_ended=NOW - 90, blind=True)),
            2,
            2,
            "a gateway is missing: nothing is scaled down",
        ),
        (function(demand=DemandSeen(waiting=20, blind=True)), 1, 2, "20 requests at target 16: 2 replicas"),
    ],
)
def test_replicas_and_their_reason(seen: FunctionSeen, current: int, replicas: int, reason: str) -> None:
    scale = desired(seen, NOW, current)
    assert (scale.desired, scale.message) == (replicas, reason)


def test_time_alone_takes_an_idle_function_to_zero() -> None:
    seen = function(demand=DemandSeen(last_ended=NOW))
    scale = desired(seen, NOW + 1, 1)
    assert scale.desired == 1
    assert scale.wake_at == NOW + 30
    assert desired(seen, NOW + 30, 1).desired == 0


def test_what_an_earlier_operator_left_running_gets_the_grace_period_too() -> None:
    seen = function(first_seen=NOW)
    assert desired(seen, NOW + 1, 1).desired == 1
    assert desired(seen, NOW + 1, 0).desired == 0
    assert desired(seen, NOW + 31, 1).desired == 0


def test_down_only_by_the_mean_of_the_last_minute() -> None:
    burst = Load(stable=53.5, panic=1.0, known=30.0, sampled_at=NOW)
    scale = desired(function(demand=DemandSeen(in_flight=1, load=burst)), NOW, 4)
    assert scale.desired == 4
    assert scale.message == "53.5 requests in the last minute's mean at target 16: 4 replicas"
    assert scale.wake_at == NOW + 1
    idle = desired(function(demand=DemandSeen(last_ended=NOW - 5, load=burst)), NOW, 4)
    assert idle.desired == 4
    assert idle.wake_at == NOW + 1
    calm = replace(burst, stable=6.0)
    assert desired(function(demand=DemandSeen(in_flight=1, load=calm)), NOW, 4).desired == 1


@given(
    waiting=st.integers(0, 200),
    in_flight=st.integers(0, 200),
    low=st.integers(0, 4),
    more=st.integers(0, 4),
    ended=st.floats(0, NOW),
    current=st.integers(0, 8),
    blind=st.booleans(),
)
def test_it_stays_within_its_bounds(
    waiting: int, in_flight: int, low: int, more: int, ended: float, current: int, blind: bool
) -> None:
    scaling = Scaling(min_replicas=low, max_replicas=max(low + more, 1))
    demand = DemandSeen(waiting=waiting, in_flight=in_flight, last_ended=ended, blind=blind)
    scale = desired(function(demand=demand, scaling=scaling), NOW, current)
    assert scaling.min_replicas <= scale.desired <= scaling.max_replicas
    assert scale.desired > 0 or waiting + in_flight == 0
    assert scale.wake_at is None or scale.wake_at > NOW
    assert not blind or scale.desired >= min(current, scaling.max_replicas)


def test_functions_of_one_backbone_are_wanted_together() -> None:
    half = DemandSeen(in_flight=24, prompt_bytes=400)
    functions = [
        function("f", demand=half, max_model_len=32),
        function("g", demand=half, max_stages=2, max_model_len=48),
        function("off", suspend=True),
    ]
    seen = snapshot(functions, [worker("w0")])
    scales = {f.function.key: desired(f, NOW) for f in functions}
    (want,) = wants(seen, scales)
    assert [scale.desired for scale in scales.values()] == [2, 2, 0]
    assert want.desired == 3
    assert want.limit == 4
    assert want.max_stages == 4
    assert want.max_model_len == 48
    assert want.prompt_tokens == 124
    assert want.pressing


def test_a_full_load_is_one_stage_and_an_unset_length_is_the_models() -> None:
    functions = [function(strategy=LoadingStrategy.FULL, demand=DemandSeen(waiting=1))]
    (want,) = wants(snapshot(functions), {functions[0].function.key: Scale(1, Why.REQUESTS, "", ceiling=4)})
    assert want.max_stages == 1
    assert want.max_model_len == 64
    assert want.prompt_tokens == 24


def test_nobodys_backbone_is_kept_while_a_function_is_not_inspected() -> None:
    held = worker("w0", resident=range(6), backbone="x")
    unknown = function(backbone="")
    assert wants(snapshot([unknown], [held], []), {unknown.function.key: Scale(0, Why.NO_REQUEST_YET, "")}) == ()
    failed = function(backbone="", failure=("ArtifactNotFound", ""))
    (want,) = wants(snapshot([failed], [held], []), {failed.function.key: Scale(0, Why.NO_REQUEST_YET, "")})
    assert (want.backbone, want.desired) == ("x", 0)


def test_who_waits_longest_comes_first() -> None:
    functions = [
        function("f", backbone="a", demand=DemandSeen(waiting=1, oldest_waiting=20.0)),
        function("g", backbone="b", demand=DemandSeen(waiting=1, oldest_waiting=10.0)),
        function("h", backbone="c", scaling=Scaling(min_replicas=1)),
    ]
    from deciding.values import model

    seen = snapshot(functions, (), [model("a"), model("b"), model("c")])
    scales = {f.function.key: desired(f, NOW) for f in functions}
    assert [want.backbone for want in wants(seen, scales)] == ["b", "a", "c"]
