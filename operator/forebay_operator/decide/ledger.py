"""Bytes of device memory: what each worker's budget is spoken for, and by whom.

Spoken for is more than used: units that are ordered, KV of pipelines that were only just told to form, and the KV that
a worker will need once it holds a model alone.
"""

from __future__ import annotations

from collections.abc import Collection

from forebay_api.model import Model, Stage
from forebay_operator.decide.seen import Book, HoldingSeen, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen

BLOCK_TOKENS = 16
MIN_KV_TOKENS = 2048


def unit_bytes(model: Model, units: Collection[int]) -> int:
    """Of each unit once."""
    if len(units) == len(model.units):
        return model.resident_bytes
    return sum([model.units[unit].resident_bytes for unit in units])


def link_bytes(model: Model, units: Collection[int]) -> int:
    """What each unit once takes over a link."""
    if len(units) == len(model.units):
        return model.link_bytes
    return sum([model.units[unit].link_bytes for unit in units])


def layers_of(model: Model, stage: Stage) -> int:
    """How many decoder layers, which alone have KV, are in ``stage``."""
    return model.layers_before[stage.last + 1] - model.layers_before[stage.first]


def stage_kv_bytes(model: Model, stage: Stage, tokens: int) -> int:
    return layers_of(model, stage) * tokens * model.kv_bytes_per_token_per_layer


def whole_kv_bytes(model: Model, tokens: int) -> int:
    """Of a worker that serves alone."""
    return model.layers_before[-1] * tokens * model.kv_bytes_per_token_per_layer


def whole(model: Model, worker: str) -> Stage:
    return Stage(worker, 0, len(model.units) - 1)


def held_units(held: HoldingSeen) -> frozenset[int]:
    """Resident or ordered."""
    return held.resident.union(held.order) if held.order else held.resident


def book(seen: Snapshot, worker: WorkerSeen) -> Book:
    """Worked out once for each worker of a snapshot."""
    known = seen.books.get(worker.name)
    if known is None or known[0] is not worker:
        entries = {backbone: _held_bytes(seen, worker, backbone) for backbone in worker.holdings}
        held = {backbone: taken for backbone, (taken, _) in entries.items()}
        urgent = {backbone: first for backbone, (_, first) in entries.items() if first}
        free = worker.memory - kv_reserved(seen, worker) - sum(held.values())
        serves = len(seen.served.get(worker.name, ()))
        known = seen.books[worker.name] = worker, Book(held, free, urgent, sum(urgent.values()), serves)
    return known[1]


def _held_bytes(seen: Snapshot, worker: WorkerSeen, backbone: str) -> tuple[int, int]:
    """As `holding_bytes`, and what is urgent of it. Worked out anew where the holding or the backbone's pipelines are
    others: of all that a worker has, one mostly."""
    held, pipelines = worker.holdings[backbone], seen.by_backbone.get(backbone, ())
    known = seen.held.get((worker.name, backbone))
    if known is None or known[0] is not held or known[1] is not pipelines:
        taken, urgent = holding_bytes(seen, worker, backbone), _urgent_bytes(seen, backbone, held)
        known = seen.held[worker.name, backbone] = held, pipelines, taken, urgent
    return known[2:]


def kv_reserved(seen: Snapshot, worker: WorkerSeen) -> int:
    """KV of the pipelines that ``worker`` reports, and of those that it was told of and has not reported yet."""
    told = [
        pipeline_kv_bytes(seen, pipeline, worker.name)
        for pipeline in seen.by_worker.get(worker.name, ())
        if pipeline.epoch not in worker.kv_bytes
    ]
    return sum(worker.kv_bytes.values()) + sum(told)


def pipeline_kv_bytes(seen: Snapshot, pipeline: PipelineSeen, worker: str) -> int:
    known = seen.backbones.get(pipeline.backbone)
    if known is None:
        return 0
    layers = sum([layers_of(known.model, stage) for stage in pipeline.stages if stage.worker == worker])
    return layers * pipeline.kv_blocks * BLOCK_TOKENS * known.model.kv_bytes_per_token_per_layer


def holding_bytes(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    """What ``worker`` holds or was told to load of ``backbone``, and the KV it is promised for serving it alone."""
    held = worker.holdings.get(backbone)
    known = seen.backbones.get(backbone)
    if held is None:
        return 0
    if known is None:
        return held.bytes_loaded
    units = held_units(held)
    return unit_bytes(known.model, units) + _promised_kv(seen, known.model, worker.name, units)


def _promised_kv(seen: Snapshot, model: Model, worker: str, units: frozenset[int]) -> int:
    if len(units) < len(model.units) or alone(seen, model.backbone, worker):
        return 0
    return whole_kv_bytes(model, min(model.max_model_len, MIN_KV_TOKENS))


def alone(seen: Snapshot, backbone: str, worker: str) -> bool:
    """Whether ``worker`` is a formed pipeline of ``backbone`` by itself."""
    return any(
        len(pipeline.stages) == 1 and pipeline.stages[0].worker == worker and pipeline.phase is PipelinePhase.FORMED
        for pipeline in seen.by_backbone.get(backbone, ())
    )


def room(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    """Bytes that ``worker`` could still give to ``backbone``, for units it lacks and KV. What is resident of it is
    paid; what is only ordered may be ordered anew and is not counted. Below zero when the budget is overdrawn."""
    spoken = book(seen, worker)
    held = worker.holdings.get(backbone)
    if held is None:
        return spoken.free
    known = seen.backbones.get(backbone)
    own = unit_bytes(known.model, held.resident) if known else held.bytes_loaded
    return spoken.free + spoken.held[backbone] - own


def owed(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    """Bytes that its link brings before anything of ``backbone``: what is urgent of others."""
    spoken = book(seen, worker)
    return spoken.owed - spoken.urgent.get(backbone, 0)


def _urgent_bytes(seen: Snapshot, backbone: str, held: HoldingSeen) -> int:
    """That have yet to come. Of a unit that is on its way some have come already: those that no unit here accounts
    for."""
    known = seen.backbones.get(backbone)
    if not held.urgent or known is None or held.leaving or held.error:
        return 0
    model = known.model
    if len(held.resident) == len(model.units):
        return 0
    missing = [unit for unit in held.order[: held.urgent] if unit not in held.resident]
    begun = held.bytes_loaded - link_bytes(model, held.resident)
    return max(link_bytes(model, missing) - max(begun, 0), 0)
