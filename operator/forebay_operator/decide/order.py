"""What each worker loads, in which order: its own segment as it is needed, then the rest, its successor's segment
first.

After the second round of that rotation every unit has two holders: fewer stages suffice, and one death loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import islice

from forebay_api.model import Stage
from forebay_operator.decide.kv import min_tokens
from forebay_operator.decide.ledger import alone, held_units, room, stage_kv_bytes, unit_bytes, whole_kv_bytes
from forebay_operator.decide.place import candidates, complete
from forebay_operator.decide.seen import NOTHING, HoldingSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Hold
from forebay_operator.decide.want import Want

Stages = tuple[Stage, ...]


def of_need(units: range) -> tuple[int, ...]:
    """Ascending, but unit 0 last: its rows are read by range, so no step waits for it."""
    return (*units[1:], 0) if 0 in units else tuple(units)


def rotated(stages: Sequence[Stage], worker: str) -> tuple[int, ...]:
    """All units, from the segment of ``worker`` on, around; in the order of the stages for one that has none."""
    start = next((place for place, stage in enumerate(stages) if stage.worker == worker), 0)
    return tuple([unit for stage in (*stages[start:], *stages[:start]) for unit in of_need(stage.units)])


def holds(seen: Snapshot, backbone: str, pipelines: Sequence[Stages], filling: Set[str]) -> tuple[Hold, ...]:
    """The orders that workers must be told anew so that the segments of ``pipelines`` (the best first) are loaded, and
    all units by those ``filling``. A worker whose order does as much already is left alone, as is one that has
    everything, and one that failed."""
    found = []
    segments: dict[str, list[Stage]] = {name: [] for name in filling}
    for stage in (stage for stages in pipelines for stage in stages):
        segments.setdefault(stage.worker, []).append(stage)
    there = [seen.places[name] for name in segments if name in seen.places]
    for worker in (seen.workers[place] for place in sorted(there)):
        held = _held(worker, backbone)
        full = len(held.resident) > pipelines[0][-1].last
        if worker.ready and not (held.error or held.leaving or full):
            hold = _hold(worker.name, backbone, pipelines, segments[worker.name], worker.name in filling)
            if _differs(hold, held):
                found.append(hold)
    return tuple(found)


def _hold(worker: str, backbone: str, pipelines: Sequence[Stages], own: Sequence[Stage], fills: bool) -> Hold:
    urgent = dict.fromkeys([unit for stage in own for unit in of_need(stage.units)])
    around = next((stages for stages in pipelines if any(stage in own for stage in stages)), pipelines[0])
    rest = [unit for unit in rotated(around, worker) if unit not in urgent] if fills else []
    return Hold(worker, backbone, (*urgent, *rest), len(urgent))


def _differs(hold: Hold, held: HoldingSeen) -> bool:
    if not held.order:  # told nothing yet
        return not held.resident.issuperset(hold.order)
    missing = set(hold.order) - held.resident
    urgent = set(hold.order[: hold.urgent]) - held.resident
    return missing != set(held.order) - held.resident or not urgent.issubset(held.order[: held.urgent])


def fillers(
    seen: Snapshot, want: Want, planned: Stages, pipelines: Sequence[Stages], banned: Set[str]
) -> frozenset[str]:
    """Who goes on until it holds everything: the workers of the pipelines, those that do so already and then heads
    first, as far as the limit and their memory allow; nobody once as many as desired are full.

    ``planned``: the pipeline about to be formed. Others join in when more replicas are desired than these can become,
    but only when a pipeline has all it needs, so that they take nothing from its links."""
    full = complete(seen, want.backbone, banned)
    if len(full) >= want.desired or not pipelines:
        return frozenset()
    able = candidates(seen, want.backbone, banned)
    size = len(seen.backbones[want.backbone].model.units)
    holders = seen.holders.get(want.backbone, ())
    told = {worker.name for worker in holders if len(held_units(worker.holdings[want.backbone])) == size}
    places = {stage.worker: -place for stages in reversed(pipelines) for place, stage in enumerate(stages)}
    involved = [
        worker.name
        for worker in able
        if (worker.name in told or worker.name in places)
        and worker.name not in full
        and _fits(seen, want, worker, planned)
    ]
    involved.sort(key=lambda name: (name not in told, places.get(name, 1), name))
    chosen = involved[: max(want.limit - len(full), 0)]
    lacking = want.desired - len(full) - len(chosen)
    if any(servable(seen, want.backbone, stages) for stages in pipelines):
        others = (w for w in able if w.name not in full and w.name not in told and w.name not in places)
        chosen += islice((w.name for w in others if _fits(seen, want, w, planned)), max(lacking, 0))
    return frozenset(chosen)


def _held(worker: WorkerSeen, backbone: str) -> HoldingSeen:
    return worker.holdings.get(backbone, NOTHING)


def servable(seen: Snapshot, backbone: str, stages: Stages) -> bool:
    """Whether every stage has all its units."""
    return all(_held(seen.named[stage.worker], backbone).resident.issuperset(stage.units) for stage in stages)


def _fits(seen: Snapshot, want: Want, worker: WorkerSeen, planned: Stages) -> bool:
    """Whether all units fit, with KV for the worker alone, beside KV of its stage in the pipeline about to be
    formed."""
    model = seen.backbones[want.backbone].model
    tokens = min_tokens(want.max_model_len)
    resident = _held(worker, want.backbone).resident
    needed = model.resident_bytes - unit_bytes(model, resident)
    if not alone(seen, want.backbone, worker.name):
        needed += whole_kv_bytes(model, tokens)
    if len(planned) > 1:
        needed += sum(stage_kv_bytes(model, stage, tokens) for stage in planned if stage.worker == worker.name)
    return needed <= room(seen, worker, want.backbone)
