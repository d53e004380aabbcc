"""How long it would take until one more worker answers: what a trend must look ahead by."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from forebay_operator.decide.seen import FunctionSeen, HoldingSeen, Snapshot, WorkerSeen


def leads(seen: Snapshot) -> Mapping[tuple[str, str], float]:
    """Seconds by (backbone, pool), of those that requests ask for: until the worker that could have all of it soonest
    has it. 0 where none could."""
    able = [worker for worker in seen.workers if worker.ready]
    fastest = sorted(able, key=lambda worker: -_rate(worker))
    holding: dict[str, list[WorkerSeen]] = {}
    for worker in able:
        for backbone in worker.holdings:
            holding.setdefault(backbone, []).append(worker)
    asked = {_key(function) for function in seen.functions if function.demand.waiting + function.demand.in_flight}
    return {
        (backbone, pool): _soonest(seen, backbone, pool, fastest, holding.get(backbone, []))
        for backbone, pool in asked
        if backbone in seen.backbones
    }


def of(function: FunctionSeen, known: Mapping[tuple[str, str], float]) -> float:
    return known.get(_key(function), 0.0)


def _key(function: FunctionSeen) -> tuple[str, str]:
    return function.backbone, function.function.spec.pool


def _soonest(seen: Snapshot, backbone: str, pool: str, fastest: list[WorkerSeen], holding: list[WorkerSeen]) -> float:
    fresh = next((worker for worker in fastest if worker.serves(pool) and backbone not in worker.holdings), None)
    begun = [worker for worker in holding if worker.serves(pool)]
    times = [_seconds(seen, backbone, worker) for worker in (*begun, *([fresh] if fresh else []))]
    return min((seconds for seconds in times if seconds > 0), default=0.0)


def _seconds(seen: Snapshot, backbone: str, worker: WorkerSeen) -> float:
    """Of what it lacks; 0 where it has all."""
    resident = worker.holdings.get(backbone, HoldingSeen()).resident
    units = seen.backbones[backbone].model.units
    return sum(unit.link_bytes for unit in units if unit.index not in resident) / _rate(worker)


def _rate(worker: WorkerSeen) -> float:
    """Bytes per second. One of 0 is unknown, and taken for no limit."""
    return min(worker.link.rate or inf, worker.link.bucket_rate)
