"""How long it would take until one more worker answers: what a trend must look ahead by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from forebay_api.model import Model
from forebay_operator.decide.ledger import link_bytes
from forebay_operator.decide.links import share
from forebay_operator.decide.seen import NOTHING, FunctionSeen, HoldingSeen, Snapshot, WorkerSeen


def leads(seen: Snapshot, functions: Iterable[FunctionSeen]) -> Mapping[tuple[str, str], float]:
    """Seconds by (backbone, pool), of those of ``functions`` that requests ask for: until the worker that could have
    all of it soonest has it. 0 where none could."""
    concerned = {function.backbone for function in functions}.intersection(seen.backbones)
    asked = {
        _key(function)
        for function in seen.functions
        if function.backbone in concerned and function.demand.waiting + function.demand.in_flight
    }
    if not asked:
        return {}
    able = [worker for worker in seen.workers if worker.ready]
    sharing = Counter([worker.link.bucket for worker in able if any(map(_loading, worker.holdings.values()))])
    fastest = sorted(able, key=lambda worker: -share(worker.link, sharing[worker.link.bucket] + 1))
    return {(backbone, pool): _soonest(seen, backbone, pool, fastest, sharing) for backbone, pool in asked}


def of(function: FunctionSeen, known: Mapping[tuple[str, str], float]) -> float:
    return known.get(_key(function), 0.0) if known else 0.0


def _key(function: FunctionSeen) -> tuple[str, str]:
    return function.backbone, function.function.spec.pool


def _soonest(
    seen: Snapshot, backbone: str, pool: str, fastest: Sequence[WorkerSeen], sharing: Mapping[str, int]
) -> float:
    fresh = next((worker for worker in fastest if worker.serves(pool) and backbone not in worker.holdings), None)
    begun = [worker for worker in seen.holders.get(backbone, ()) if worker.ready and worker.serves(pool)]
    model = seen.backbones[backbone].model
    times = [_seconds(model, worker, sharing) for worker in (begun if fresh is None else [*begun, fresh])]
    return min([seconds for seconds in times if seconds > 0], default=0.0)


def _seconds(model: Model, worker: WorkerSeen, sharing: Mapping[str, int]) -> float:
    """Of what it lacks, beside all that load through its bucket by now; 0 where it has all."""
    held = worker.holdings.get(model.backbone, NOTHING)
    lacking = model.link_bytes - link_bytes(model, held.resident)
    return lacking / share(worker.link, sharing[worker.link.bucket] + (not _loading(held)))


def _loading(held: HoldingSeen) -> bool:
    return not held.resident.issuperset(held.order)
