"""`forebay`, its planner's cut replaced by equal bytes per stage: what the chosen cut is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forebay_api.model import Model
from forebay_cli.__main__ import main
from forebay_operator.decide import cut, plan
from forebay_operator.decide.seen import Costs, WorkerSeen


def equal(model: Model, costs: Costs, candidates: Sequence[WorkerSeen], **options: Any) -> cut.Cut | cut.Refusal:
    chosen = cut.best_cut(model, costs, candidates, **options)
    if isinstance(chosen, cut.Refusal):
        return chosen
    names = [stage.worker for stage in chosen.stages]
    stages = cut.equal_cut(model, names)
    workers = {worker.name: worker for worker in candidates}
    return cut.Cut(stages, cut.predict(model, costs, workers, stages, options["prompt_tokens"]))


if __name__ == "__main__":
    plan.best_cut = equal  # type: ignore[attr-defined]  # the one thing that this bench changes
    main()
