"""What a backbone is wanted for, over all functions that use it."""

from __future__ import annotations

from dataclasses import replace

from deciding.loads import NOW, TEN, load
from deciding.values import function, model, snapshot, worker
from forebay_api.function import LoadingStrategy, Scaling
from forebay_operator.decide.scale import Scale, Why, desired
from forebay_operator.decide.seen import DemandSeen
from forebay_operator.decide.want import in_order, wants

TROUBLE = ("PrometheusTimeout", "Prometheus did not answer within 2 s")


def test_functions_of_one_backbone_are_wanted_together() -> None:
    half = DemandSeen(in_flight=16, prompt_bytes=400, load=load(16.8))
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


def test_a_rate_limit_counts_also_where_a_backbone_is_shared() -> None:
    seen = function(demand=DemandSeen(in_flight=90, load=load(90.0)), scaling=replace(TEN, max_scale_up_rate=2.0))
    scale = desired(seen, NOW, 1)
    (want,) = wants(snapshot([seen], [worker("w0")]), {seen.function.key: scale})
    assert (scale.desired, want.desired) == (2, 2)


def test_a_full_load_is_one_stage_and_an_unset_length_is_the_models() -> None:
    functions = [function(strategy=LoadingStrategy.FULL, demand=DemandSeen(waiting=1))]
    (want,) = wants(snapshot(functions), {functions[0].function.key: Scale(1, Why.REQUESTS, "", ceiling=4)})
    assert want.max_stages == 1
    assert want.max_model_len == 64
    assert want.prompt_tokens == 24


def test_nobodys_backbone_is_wanted_zero_times_unless_it_may_be_somebodys() -> None:
    seen = snapshot([function(backbone="")], [worker("w0", resident=range(6), backbone="x")], [])
    scales = {seen.functions[0].function.key: Scale(0, Why.NO_REQUEST_YET, "")}
    assert wants(seen, scales, {"x"}) == []
    (want,) = wants(seen, scales)
    assert (want.backbone, want.desired) == ("x", 0)


def test_who_waits_longest_comes_first() -> None:
    functions = [
        function("f", backbone="a", demand=DemandSeen(waiting=1, oldest_waiting=20.0)),
        function("g", backbone="b", demand=DemandSeen(waiting=1, oldest_waiting=10.0)),
        function("h", backbone="c", scaling=Scaling(min_replicas=1)),
    ]
    seen = snapshot(functions, (), [model("a"), model("b"), model("c")])
    scales = {f.function.key: desired(f, NOW) for f in functions}
    ordered = in_order(wants(seen, scales), {}, NOW)
    assert [want.backbone for want in ordered] == ["b", "a", "c"]
