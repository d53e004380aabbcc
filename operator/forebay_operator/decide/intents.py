"""Steps that were sent and not yet seen: the snapshot as it is once workers have heard them, and when they have.

Within one pass this is how a decision knows those before it; between passes the shell lays what is still under way over
what workers report, so that nothing is ordered twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forebay_api.model import Epoch
from forebay_operator.decide.seen import FunctionSeen, HoldingSeen, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prepare, Step


def applied(seen: Snapshot, steps: Sequence[Step]) -> Snapshot:
    """``seen`` with ``steps`` told. What takes time has not happened: memory that a `Drop` or a `Dissolve` will free
    is still taken, a formed pipeline is reported by nobody. Steps whose effect is there already change nothing."""
    heard: dict[str, WorkerSeen] = {}
    for step in steps:
        if not isinstance(step, Prepare | Hold | Drop):
            seen = _after(seen, step)
        elif (worker := heard.get(step.worker) or seen.named.get(step.worker)) is not None:
            heard[step.worker] = _hearing(worker, step)
    return seen.with_workers(heard) if heard else seen


def _hearing(worker: WorkerSeen, step: Prepare | Hold | Drop) -> WorkerSeen:
    if isinstance(step, Prepare):
        return _preparing(worker, step)
    before = worker.holdings.get(step.backbone)
    held = _holding(before, step) if isinstance(step, Hold) else _dropping(before, step)
    return worker if held is None else replace(worker, holdings={**worker.holdings, step.backbone: held})


def _after(seen: Snapshot, step: Inspect | Form | Drain | Dissolve) -> Snapshot:
    match step:
        case Inspect():
            return replace(seen, functions=tuple(_inspecting(function, step) for function in seen.functions))
        case Form():
            return _with_pipeline(seen, step)
        case Drain():
            pipelines = tuple(_draining(pipeline, step) for pipeline in seen.pipelines)
            return seen.with_pipelines(pipelines, _of_epoch(seen, step.epoch))
    pipelines = tuple(pipeline for pipeline in seen.pipelines if pipeline.epoch != step.epoch)
    return seen.with_pipelines(pipelines, _of_epoch(seen, step.epoch))


def _of_epoch(seen: Snapshot, epoch: Epoch) -> list[PipelineSeen]:
    return [pipeline for pipeline in seen.pipelines if pipeline.epoch == epoch]


def settled(seen: Snapshot, step: Step) -> bool:
    """Whether what workers report (``seen``, with no intents laid over it) shows that ``step`` was carried out."""
    workers = {worker.name: worker for worker in seen.workers}
    pipelines = {pipeline.epoch: pipeline for pipeline in seen.pipelines}
    match step:
        case Inspect():
            return not any(_is_about(function, step) and not function.backbone for function in seen.functions)
        case Prepare():
            worker = workers.get(step.worker)
            told = worker is not None and step.backbone in (worker.probed if step.probe else worker.prepared)
            return worker is None or told
        case Hold():
            worker = workers.get(step.worker)
            return worker is None or worker.holdings.get(step.backbone, HoldingSeen()).order == step.order
        case Drop():
            worker = workers.get(step.worker)
            return worker is None or _gone(worker.holdings.get(step.backbone), step.units)
        case Form():
            formed = pipelines.get(step.epoch)
            return formed is not None and formed.reported_by >= {stage.worker for stage in step.stages}
        case Drain():
            drained = pipelines.get(step.epoch)
            return drained is None or drained.phase is not PipelinePhase.FORMED
    return step.epoch not in pipelines


def _gone(held: HoldingSeen | None, units: tuple[int, ...]) -> bool:
    return held is None or (bool(units) and held.resident.isdisjoint(units))


def _is_about(function: FunctionSeen, step: Inspect) -> bool:
    model = function.function.spec.model
    return (model.uri, model.dtype) == (step.uri, step.dtype)


def _inspecting(function: FunctionSeen, step: Inspect) -> FunctionSeen:
    return replace(function, inspecting=True) if _is_about(function, step) else function


def _preparing(worker: WorkerSeen, step: Prepare) -> WorkerSeen:
    probed = worker.probed | {step.backbone} if step.probe else worker.probed
    return replace(worker, prepared=worker.prepared | {step.backbone}, probed=probed)


def _holding(held: HoldingSeen | None, step: Hold) -> HoldingSeen:
    if held is None:
        return HoldingSeen(order=step.order, urgent=step.urgent)
    return replace(held, order=step.order, urgent=step.urgent, leaving=False)


def _dropping(held: HoldingSeen | None, step: Drop) -> HoldingSeen | None:
    if held is None:
        return None
    order = tuple(unit for unit in held.order if step.units and unit not in step.units)
    return replace(held, order=order, urgent=min(held.urgent, len(order)), leaving=not step.units)


def _with_pipeline(seen: Snapshot, step: Form) -> Snapshot:
    if step.epoch < seen.next_epoch and _of_epoch(seen, step.epoch):
        return seen
    formed = PipelineSeen(step.epoch, step.backbone, step.stages, PipelinePhase.FORMED, kv_blocks=step.kv_blocks)
    following = Epoch(step.epoch.term, step.epoch.counter + 1)
    return seen.with_pipelines((*seen.pipelines, formed), [formed], max(seen.next_epoch, following))


def _draining(pipeline: PipelineSeen, step: Drain) -> PipelineSeen:
    if pipeline.epoch != step.epoch or pipeline.phase is not PipelinePhase.FORMED:
        return pipeline
    return replace(pipeline, phase=PipelinePhase.DRAINING)
