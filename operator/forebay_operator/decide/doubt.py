"""Models that workers hold, that no function names, and that may be somebody's all the same.

An operator that just began knows of no function what its model is until a worker has looked at it again. What is held
is left alone until then, but not for ever: a function whose model nobody can tell must not keep memory from others.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from forebay_operator.decide.pressure import NO_TURN
from forebay_operator.decide.seen import Snapshot, WorkerSeen

# Seconds for which a holding is left to functions that nobody has been asked about yet: workers answer one question
# after another, and there may be many.
UNASKED = 300.0
# The same, to functions of whose models somebody could not tell: for another worker to try, or a source to come back.
UNTOLD = 30.0


def doubts(seen: Snapshot, now: float) -> Mapping[str, float]:
    """Until when (unix seconds) each of them is left alone, counted from when it was first seen where it is."""
    unasked: set[str] = set()
    untold: set[str] = set()
    for function in seen.functions:
        if function.backbone not in seen.backbones and function.failure is None:
            pools = untold if function.vain or function.trouble else unasked
            pools.add(function.function.spec.pool)
    found: dict[str, float] = {}
    if not unasked and not untold:
        return found
    named = {backbone for function in seen.functions for backbone in (function.backbone, function.previous)}
    for backbone in seen.holders.keys() - named:
        since = seen.turns.of.get(backbone, NO_TURN).since
        staying = [worker for worker in seen.holders[backbone] if not worker.holdings[backbone].leaving]
        until = [since.get(worker.name, now) + _grace(worker, unasked, untold) for worker in staying]
        if (last := max(until, default=now)) > now:
            found[backbone] = last
    return found


def _grace(worker: WorkerSeen, unasked: Set[str], untold: Set[str]) -> float:
    """Seconds for which what ``worker`` holds may turn out to be of a function of these pools. Of one that takes no
    questions nothing is dropped anyway."""
    if worker.ready and any(map(worker.serves, unasked)):
        return UNASKED
    return UNTOLD if worker.ready and any(map(worker.serves, untold)) else 0.0
