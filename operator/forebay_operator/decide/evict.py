"""Which idle backbones leave which workers when memory is short for one that has requests.

Least recently used first, only from workers where it is needed, and nothing at all when it would not be enough. A
backbone with a request, waiting or running, never leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from forebay_api.model import Model, Stage
from forebay_operator.decide.cut import Cut, Refusal
from forebay_operator.decide.ledger import holding_bytes, pipeline_kv_bytes, room, stage_kv_bytes, unit_bytes
from forebay_operator.decide.seen import HoldingSeen, Snapshot, WorkerSeen


@dataclass(frozen=True, slots=True)
class Eviction:
    backbone: str
    worker: str


def evictions(
    seen: Snapshot,
    backbone: str,
    busy: Set[str],
    kv_tokens: int,
    cut_with: Callable[[Mapping[str, int]], Cut | Refusal],
) -> tuple[Eviction, ...]:
    """What must leave so that ``backbone`` can be placed. ``busy``: backbones with demand; ``cut_with``: the cut that
    is possible when workers have that much room."""
    model = seen.backbones[backbone].model
    rooms = {worker.name: room(seen, worker, backbone) for worker in seen.workers}
    victims = idle(seen, busy | {backbone})
    widened = dict(rooms)
    for count, victim in enumerate(victims, start=1):
        for worker in seen.workers:
            widened[worker.name] += _freed(seen, worker, victim)
        answer = cut_with(widened)
        if isinstance(answer, Cut):
            return _fewest(seen, model, answer.stages, rooms, victims[:count], kv_tokens)
    return ()


def idle(seen: Snapshot, busy: Set[str]) -> tuple[str, ...]:
    """Held backbones without a request, the least recently used first."""
    working = {pipeline.backbone for pipeline in seen.pipelines if pipeline.running + pipeline.waiting}
    held = {backbone for worker in seen.workers for backbone in worker.holdings}

    def last_used(backbone: str) -> tuple[float, str]:
        known = seen.backbones.get(backbone)
        return (known.last_used if known else 0.0), backbone

    return tuple(sorted(held - working - busy, key=last_used))


def _fewest(
    seen: Snapshot,
    model: Model,
    stages: Sequence[Stage],
    rooms: Mapping[str, int],
    victims: Sequence[str],
    kv_tokens: int,
) -> tuple[Eviction, ...]:
    """Of ``victims``, on each worker of ``stages``, only as many as it takes."""
    workers = {worker.name: worker for worker in seen.workers}
    found: list[Eviction] = []
    for stage in stages:
        worker = workers[stage.worker]
        resident = worker.holdings.get(model.backbone, HoldingSeen()).resident
        short = unit_bytes(model, set(stage.units) - resident) + stage_kv_bytes(model, stage, kv_tokens)
        short -= rooms[stage.worker]
        for victim in victims:
            freed = _freed(seen, worker, victim)
            if short > 0 and freed > 0:
                found.append(Eviction(victim, stage.worker))
                short -= freed
    return tuple(found)


def _freed(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    kv = sum(
        worker.kv_bytes.get(pipeline.epoch, pipeline_kv_bytes(seen, pipeline, worker.name))
        for pipeline in seen.pipelines
        if pipeline.backbone == backbone
    )
    return holding_bytes(seen, worker, backbone) + kv
