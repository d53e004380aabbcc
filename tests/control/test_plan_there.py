"""`forebay plan` on the workers of a running system: what they hold costs nothing, and pools keep to themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from control.actors import until
from control.conftest import System
from control.operators import function
from forebay_api.function import Function
from forebay_api.model import Model
from forebay_cli import plan
from forebay_cli.preview import Unseen
from forebay_operator.reports import UNKNOWN_RATE

BODY = """
apiVersion: forebay.dev/v1alpha1
kind: LLMFunction
metadata: {{name: planned}}
spec: {{model: {{uri: "{uri}"}}, pool: {pool}}}
"""


async def test_a_suspended_function_is_looked_at(system: System, tmp_path: Path) -> None:
    """Which is how something is planned that nobody may call yet."""
    view = await viewed(system, 1, suspend=True)
    (made,) = plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    assert made.cut.prediction.first_token > 0


def nobody(function: Function) -> Model:
    raise AssertionError(f"{function.key}: known already")


def written(folder: Path, uri: str, pool: str = "default") -> tuple[Path, ...]:
    file = folder / "function.yaml"
    file.write_text(BODY.format(uri=uri, pool=pool))
    return (file,)


async def viewed(system: System, workers: int, *, suspend: bool = False, **scaling: Any) -> dict[str, Any]:
    await system.start(function("a", "file:///m/a", scaling=scaling, suspend=suspend), workers=workers)
    if scaling:
        await until(system.routes)

    while True:  # what is waited for tells nobody; the test's own limit ends it
        view = dict(await system.view())
        if view["models"] and all(worker["prepared"] for worker in view["workers"]):
            return view
        await asyncio.sleep(0.01)


async def test_several_idle_workers_share_the_units(system: System, tmp_path: Path) -> None:
    view = await viewed(system, 3)
    (made,) = plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    assert {stage.worker for stage in made.cut.stages} <= {"w0", "w1", "w2"}
    assert sorted(unit for stage in made.cut.stages for unit in stage.units) == list(range(8))
    assert made.cut.prediction.first_token > 0
    assert made.to_json()["stages"][0]["memoryBytes"] == 1 << 30


async def test_what_a_worker_holds_costs_nothing(system: System, tmp_path: Path) -> None:
    view = await viewed(system, 1, minReplicas=1)
    (made,) = plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    assert [stage.worker for stage in made.cut.stages] == ["w0"]
    assert made.cut.prediction.servable == 0


async def test_a_link_that_nobody_measured_yet_is_as_fast_as_the_operator_takes_it_for(
    system: System, tmp_path: Path
) -> None:
    view = await viewed(system, 1)
    (worker,) = view["workers"]
    made = []
    for rate in (0.0, UNKNOWN_RATE, 2 * UNKNOWN_RATE):
        worker["linkBytesPerSecond"] = rate
        made += plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    unknown, same, faster = (each.cut.prediction for each in made)
    assert unknown == same
    assert unknown.servable > faster.servable > 0


async def test_another_name_of_a_known_model_has_its_compute(system: System, tmp_path: Path) -> None:
    view = await viewed(system, 1)
    (known,) = plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    (other,) = plan.plans_in(view, written(tmp_path, "file:///m/link"), 64, "default", lambda _: known.model)
    assert known.measured
    assert other.measured
    assert other.cut == known.cut


async def test_another_dtype_or_revision_may_be_another_model(system: System, tmp_path: Path) -> None:
    view = await viewed(system, 1)
    (known,) = plan.plans_in(view, written(tmp_path, "file:///m/a"), 64, "default", nobody)
    (shown,) = view["functions"]
    for field, other in (("dtype", "bfloat16"), ("revision", "v2")):
        looked: list[Function] = []

        def look(function: Function, looked: list[Function] = looked) -> Model:
            looked.append(function)
            return known.model

        changed = {**view, "functions": [{**shown, field: other}]}
        plan.plans_in(changed, written(tmp_path, "file:///m/a"), 64, "default", look)
        assert len(looked) == 1


async def test_what_cannot_be_planned_is_said(system: System, tmp_path: Path) -> None:
    view = await viewed(system, 1)

    def look(_function: Function) -> Model:
        raise Unseen("not there")

    with pytest.raises(Unseen, match="not there"):
        plan.plans_in(view, written(tmp_path, "file:///m/x"), 64, "default", look)
    for worker in view["workers"]:
        worker["pool"] = "big"
    with pytest.raises(plan.CannotPlan, match=r"default/planned: no ready worker of pool small is attached"):
        plan.plans_in(view, written(tmp_path, "file:///m/a", "small"), 64, "default", nobody)
