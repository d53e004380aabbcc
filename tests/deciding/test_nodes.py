"""Workers of several nodes and pools: stages stay together where that costs nothing, and pools keep to themselves."""

from __future__ import annotations

from dataclasses import replace

from deciding.values import NOW, WAITING, function, model, pipeline, snapshot, worker
from forebay_api.model import Stage
from forebay_operator.decide.cut import Cut, best_cut, predict
from forebay_operator.decide.plan import Plan, next_steps
from forebay_operator.decide.seen import Costs, FunctionSeen, WorkerSeen
from forebay_operator.decide.steps import Drain, Form, Hold, Inspect, Prepare

COSTS = Costs(layer=((1, 0.001),), head=((1, 0.001),), hop=0.001, far_hop=0.5)


def placed(name: str, node: str, pool: str = "", **rest: int) -> WorkerSeen:
    return replace(worker(name, **rest), node=node, pool=pool)


def of_pool(pool: str) -> FunctionSeen:
    found = function(demand=WAITING)
    spec = replace(found.function.spec, pool=pool)
    return replace(found, function=replace(found.function, spec=spec))


def stages_on(plan: Plan) -> set[str]:
    return {stage.worker for step in plan.steps if isinstance(step, Form) for stage in step.stages}


def test_stages_prefer_one_node() -> None:
    mixed = [placed("a0", "a"), placed("b0", "b"), placed("a1", "a"), placed("b1", "b")]
    cut = best_cut(model(), COSTS, mixed, max_stages=2, prompt_tokens=1)
    assert isinstance(cut, Cut)
    assert {stage.worker for stage in cut.stages} == {"a0", "a1"}


def test_of_many_workers_the_whole_selection_of_one_node_is_tried() -> None:
    many = [placed("a0", "a"), *(placed(f"b{i}", "b") for i in range(3)), *(placed(f"c{i}", "c") for i in range(2))]
    cut = best_cut(model(), COSTS, many, max_stages=3, prompt_tokens=1)
    assert isinstance(cut, Cut)
    assert {stage.worker for stage in cut.stages} == {"b0", "b1", "b2"}


def test_a_pipeline_spans_nodes_when_that_is_sooner_and_the_prediction_has_the_way() -> None:
    near, far = placed("a0", "a"), placed("b0", "b")
    stages = (Stage("a0", 0, 2), Stage("b0", 3, 5))
    costs = replace(COSTS, far_hop=0.2)
    cut = best_cut(model(), costs, [near, far], max_stages=2, prompt_tokens=1)
    assert isinstance(cut, Cut)
    assert len(cut.stages) == 2
    together = predict(model(), costs, {"a0": near, "b0": replace(far, node="a")}, stages, 1)
    apart = predict(model(), costs, {"a0": near, "b0": far}, stages, 1)
    assert together.first_token <= apart.first_token <= together.first_token + costs.far_hop


def test_a_function_uses_the_workers_of_its_pool_and_those_of_none() -> None:
    workers = [placed("big0", "a", "big"), placed("small0", "a", "small"), placed("free0", "a")]
    plan = next_steps(snapshot([of_pool("small")], workers), NOW)
    told = {step.worker for step in plan.steps if isinstance(step, Hold)}
    assert told
    assert told | stages_on(plan) <= {"small0", "free0"}


def test_a_function_that_changed_its_pool_leaves_the_former() -> None:
    old = placed("big0", "a", "big", resident=range(6))
    seen = snapshot([of_pool("small")], [old, placed("small0", "a", "small")])
    seen = replace(seen, pipelines=(pipeline(Stage("big0", 0, 5)),))
    plan = next_steps(seen, NOW)
    assert [step for step in plan.steps if isinstance(step, Drain)] != []


def test_a_model_is_inspected_and_prepared_in_its_own_pool() -> None:
    workers = [placed("big0", "a", "big"), placed("small0", "a", "small")]
    unknown = replace(of_pool("small"), backbone="")
    plan = next_steps(snapshot([unknown], workers), NOW)
    assert [step.worker for step in plan.steps if isinstance(step, Inspect)] == ["small0"]
    assert next_steps(snapshot([unknown], workers[:1]), NOW).steps == ()
    bare = [replace(worker, prepared=frozenset()) for worker in workers]
    plan = next_steps(replace(snapshot([of_pool("small")]), workers=tuple(bare)), NOW)
    assert {step.worker for step in plan.steps if isinstance(step, Prepare)} == {"small0"}
