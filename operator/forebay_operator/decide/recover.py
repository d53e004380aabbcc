"""What a fault breaks.

There is no plan for faults of its own: a broken pipeline is dissolved, and as nothing formed is left the pass that
plans a cold start plans again, where what survivors hold costs nothing and what is missing is urgent. A worker that was
replaced under its old name is recognised by holding nothing; it takes part as an empty one if that predicts better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from forebay_api.model import Stage
from forebay_operator.decide.ledger import held_units
from forebay_operator.decide.seen import PipelinePhase, PipelineSeen, Snapshot, WorkerSeen


def broken(seen: Snapshot, pipeline: PipelineSeen) -> bool:
    """Whether nothing more will come of ``pipeline``: a worker reports so, or a stage's worker is gone, is neither
    ready nor draining, or neither holds nor loads what its stage needs."""
    if pipeline.phase is PipelinePhase.BROKEN:
        return True
    last = pipeline.stages[-1].last
    return any(_lost(seen.named.get(stage.worker), pipeline.backbone, stage, last) for stage in pipeline.stages)


def condemned(workers: Iterable[WorkerSeen]) -> frozenset[str]:
    """Backbones whose answers were no numbers on two workers: one device may be sick, of two the weights are."""
    counts = Counter(backbone for worker in workers for backbone in worker.not_numbers if backbone)
    return frozenset(backbone for backbone, count in counts.items() if count > 1)


def _lost(worker: WorkerSeen | None, backbone: str, stage: Stage, last: int) -> bool:
    """``last``: of all units."""
    held = worker.holdings.get(backbone) if worker else None
    if worker is None or held is None or not (worker.ready or worker.draining) or held.leaving:
        return True
    if len(held.resident) > last or held.resident.issuperset(stage.units):
        return False
    return bool(held.error) or not held_units(held).issuperset(stage.units)
