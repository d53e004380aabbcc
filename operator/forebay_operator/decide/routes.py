"""Which pipelines of one backbone exist: what ends, what drains, what can be formed from what workers hold by now."""

from __future__ import annotations

from collections.abc import Sequence, Set

from forebay_api.model import Model, Stage
from forebay_operator.decide.kv import Quota, min_tokens, quota, steps_in_flight
from forebay_operator.decide.ledger import (
    BLOCK_TOKENS,
    alone,
    held_units,
    room,
    unit_bytes,
    whole_kv_bytes,
)
from forebay_operator.decide.order import Stages
from forebay_operator.decide.place import candidates, complete
from forebay_operator.decide.recover import broken, condemned
from forebay_operator.decide.seen import NOTHING, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Prediction
from forebay_operator.decide.want import Want


def of_backbone(seen: Snapshot, backbone: str) -> tuple[PipelineSeen, ...]:
    """The preferred ones first, see `Snapshot.by_backbone`."""
    return seen.by_backbone.get(backbone, ())


def formed(seen: Snapshot, backbone: str) -> tuple[PipelineSeen, ...]:
    """Those that may take requests, as far as is known. Worked out once for each backbone of a snapshot."""
    pipelines = of_backbone(seen, backbone)
    if pipelines and backbone not in seen.formed:
        seen.formed[backbone] = tuple(
            [
                pipeline
                for pipeline in pipelines
                if pipeline.phase is PipelinePhase.FORMED and not broken(seen, pipeline) and not _ending(seen, pipeline)
            ]
        )
    return seen.formed[backbone] if pipelines else ()


def _ending(seen: Snapshot, pipeline: PipelineSeen) -> bool:
    """Whether one of its workers is about to end."""
    return bool(seen.draining) and not seen.draining.isdisjoint(stage.worker for stage in pipeline.stages)


def reported(pipeline: PipelineSeen) -> bool:
    """Every stage has said that it is formed: it serves."""
    return pipeline.reported_by.issuperset([stage.worker for stage in pipeline.stages])


def replicas(seen: Snapshot, backbone: str) -> int:
    """How many serve: each worker that is a pipeline by itself; together, the workers of a longer one are one."""
    if backbone not in seen.by_backbone:  # most
        return 0
    serving = formed(seen, backbone)
    return max([len(pipeline.stages) for pipeline in serving].count(1), min(len(serving), 1))


def at_rest(seen: Snapshot, want: Want, banned: Set[str]) -> bool:
    """Whether there is nothing to say: as many workers as desired have anything of it, all of them have everything, and
    each serves alone."""
    holders, pipelines = seen.holders.get(want.backbone, ()), of_backbone(seen, want.backbone)
    if not 0 < want.desired == len(holders) == len(pipelines):
        return False
    serving = formed(seen, want.backbone)
    singles = {each.stages[0].worker for each in serving if len(each.stages) == 1 and reported(each)}
    return len(singles) == want.desired and singles == set(complete(seen, want.backbone, banned))


def endings(seen: Snapshot, backbone: str) -> tuple[Dissolve, ...]:
    """Broken pipelines and drained ones. One whose head has a request is never dissolved unless it is broken."""
    serving = formed(seen, backbone)
    return tuple(
        Dissolve(pipeline.epoch)
        for pipeline in of_backbone(seen, backbone)
        if pipeline not in serving and (broken(seen, pipeline) or _drained(pipeline))
    )


def _drained(pipeline: PipelineSeen) -> bool:
    return pipeline.phase is PipelinePhase.DRAINED and not pipeline.running + pipeline.waiting


def keepers(seen: Snapshot, want: Want, banned: Set[str]) -> tuple[str, ...]:
    """The workers that hold everything and shall serve alone, as many as desired: those that do so already stay."""
    serving = {
        pipeline.stages[0].worker: (not reported(pipeline), -pipeline.running - pipeline.waiting)
        for pipeline in reversed(formed(seen, want.backbone))
        if len(pipeline.stages) == 1
    }
    full = complete(seen, want.backbone, banned)
    return tuple(sorted(full, key=lambda name: (name not in serving, serving.get(name, ()), name))[: want.desired])


def drains(seen: Snapshot, want: Want, kept: Sequence[str], banned: Set[str]) -> tuple[Drain, ...]:
    """Longer pipelines than the best that serves, those of workers to be cleared or about to end, and single workers
    not wanted."""
    serving = formed(seen, want.backbone)
    best = min((len(pipeline.stages) for pipeline in serving if reported(pipeline)), default=len(seen.workers))

    def unwanted(pipeline: PipelineSeen) -> bool:
        workers = {stage.worker for stage in pipeline.stages}
        surplus = len(workers) == 1 and len(kept) == want.desired and workers.isdisjoint(kept)
        return len(workers) > best or surplus or not banned.isdisjoint(workers)

    ending = [
        pipeline
        for pipeline in of_backbone(seen, want.backbone)
        if pipeline.phase is PipelinePhase.FORMED and _ending(seen, pipeline) and not broken(seen, pipeline)
    ]
    return tuple(Drain(pipeline.epoch) for pipeline in (*filter(unwanted, serving), *ending))


def drops(seen: Snapshot, backbone: str, staying: Set[str]) -> tuple[Drop, ...]:
    """All of ``backbone`` leaves the workers that hold some of it, are not ``staying`` and run no pipeline of it. A
    worker in quarantine is left as it is, unless it is there for the weights' sake."""
    running = {stage.worker for pipeline in of_backbone(seen, backbone) for stage in pipeline.stages}
    return tuple(
        Drop(worker.name, backbone)
        for worker in seen.holders.get(backbone, ())
        if (worker.ready or (backbone in worker.not_numbers and backbone in condemned(seen.workers)))
        and worker.name not in running
        and worker.name not in staying
        and not worker.holdings[backbone].leaving
    )


def cover(seen: Snapshot, want: Want, banned: Set[str]) -> Stages | None:
    """The fewest workers whose resident units cover the backbone, each with one run: farthest reach first."""
    count = len(seen.backbones[want.backbone].model.units)
    resident = {
        worker.name: worker.holdings.get(want.backbone, NOTHING).resident
        for worker in candidates(seen, want.backbone, banned)
    }
    stages: list[Stage] = []
    unit = 0
    while unit < count:
        reaches = {name: _reach(units, unit) for name, units in resident.items()}
        name = max(reaches, key=lambda name: reaches[name], default="")
        if not name or reaches[name] == unit or len(stages) == want.max_stages:
            return None
        stages.append(Stage(name, unit, reaches[name] - 1))
        unit = reaches[name]
        del resident[name]
    return tuple(stages)


def _reach(units: Set[int], start: int) -> int:
    """The first unit from ``start`` on that is not in ``units``."""
    while start in units:
        start += 1
    return start


def form(seen: Snapshot, want: Want, stages: Stages, predicted: Prediction | None = None) -> Form | None:
    """The order to form ``stages``, or None when their KV does not fit beside what their workers shall hold."""
    model = seen.backbones[want.backbone].model
    left = {stage.worker: _left(seen, want, model, seen.named[stage.worker], stages) for stage in stages}
    share: Quota | None = quota(model, stages, left, want.max_model_len)
    if share is None:
        return None
    return Form(
        epoch=seen.next_epoch,
        backbone=want.backbone,
        stages=stages,
        kv_blocks=share.blocks,
        block_tokens=BLOCK_TOKENS,
        steps_in_flight=steps_in_flight(seen.named[stage.worker].compute for stage in stages),
        max_model_len=share.max_model_len,
        predicted=predicted,
    )


def _left(seen: Snapshot, want: Want, model: Model, worker: WorkerSeen, stages: Stages) -> int:
    """Bytes for KV of ``stages`` on ``worker``, when all that it was told to load is paid. A worker that will hold
    everything keeps enough to serve alone later."""
    held = worker.holdings.get(want.backbone, NOTHING)
    units = held_units(held)
    left = room(seen, worker, want.backbone) - unit_bytes(model, units - held.resident)
    if len(stages) > 1 and len(units) == len(model.units) and not alone(seen, want.backbone, worker.name):
        left -= whole_kv_bytes(model, min_tokens(want.max_model_len))
    return left
