"""Which of the stakes that may pay make room: as few as it takes, and none when they would not be enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence, Set

from forebay_operator.decide.cut import Cut, Refusal
from forebay_operator.decide.kv import min_tokens
from forebay_operator.decide.ledger import (
    alone,
    book,
    pipeline_kv_bytes,
    room,
    stage_kv_bytes,
    unit_bytes,
    whole_kv_bytes,
)
from forebay_operator.decide.place import usable
from forebay_operator.decide.pressure import Kind, Stake, rank
from forebay_operator.decide.seen import NOTHING, Snapshot, WorkerSeen
from forebay_operator.decide.want import Want

Cutter = Callable[[Mapping[str, int]], Cut | Refusal]
"""The cut that is possible when workers have that much room."""


def for_first(seen: Snapshot, want: Want, able: Sequence[Stake], banned: Set[str], cut_with: Cutter) -> list[Stake]:
    """What must leave so that a backbone that nothing serves can be placed. ``able``: what may pay, the first first.

    Idle ones leave on several workers, since it is loaded the sooner the more load it. Of those with requests one
    worker's are enough where the model fits."""
    able = [stake for stake in able if stake.worker not in banned]
    idle = [stake for stake in able if stake.kind is Kind.IDLE]
    by_backbone: dict[str, list[Stake]] = {}
    for stake in idle:
        by_backbone.setdefault(stake.backbone, []).append(stake)
    groups = list(by_backbone.values())
    found = _spread(seen, want, groups, cut_with)
    if found or len(idle) == len(able):
        return found
    single = for_more(seen, want, able, banned)
    return single or _spread(
        seen, want, [*groups, *([stake] for stake in able if stake.kind is not Kind.IDLE)], cut_with
    )


def for_more(seen: Snapshot, want: Want, able: Sequence[Stake], banned: Set[str]) -> list[Stake]:
    """What must leave one worker so that it can hold all of a backbone: there where it costs least."""
    by_worker: dict[str, list[Stake]] = {}
    for stake in able:
        by_worker.setdefault(stake.worker, []).append(stake)
    found = []
    for name, paid in by_worker.items():
        worker = seen.named[name]
        if not usable(seen, want.backbone, worker, banned):
            continue
        short = _whole(seen, want, worker) - room(seen, worker, want.backbone)
        paying = _enough(seen, worker, paid, short)
        if paying:
            found.append(paying)
    return min(found, key=lambda paying: (rank(paying[-1]), len(paying)), default=[])


def _whole(seen: Snapshot, want: Want, worker: WorkerSeen) -> int:
    """Bytes that ``worker`` lacks to serve alone."""
    model = seen.backbones[want.backbone].model
    resident = worker.holdings.get(want.backbone, NOTHING).resident
    kv = 0 if alone(seen, want.backbone, worker.name) else min_tokens(want.max_model_len)
    kv_bytes = whole_kv_bytes(model, kv)
    return model.resident_bytes - unit_bytes(model, resident) + kv_bytes


def _enough(seen: Snapshot, worker: WorkerSeen, able: Sequence[Stake], short: int) -> list[Stake]:
    """Of ``able``, the first first, as many as free ``short`` bytes on ``worker``; empty when all are too few, or none
    is needed."""
    taken: list[tuple[Stake, int]] = []
    for stake in able:
        if short > 0 and (freed := _freed(seen, worker, stake.backbone)) > 0:
            taken.append((stake, freed))
            short -= freed
    if short > 0:
        return []
    for entry in reversed(taken[:-1]):  # what the last one makes up for
        if entry[1] + short <= 0:
            taken.remove(entry)
            short += entry[1]
    return [stake for stake, _ in taken]


def _spread(seen: Snapshot, want: Want, groups: Sequence[Sequence[Stake]], cut_with: Cutter) -> list[Stake]:
    """The fewest of ``groups``, in their order, with which a cut is possible; of these what its workers need."""
    if not groups:
        return []
    workers = {worker.name: worker for worker in seen.workers}
    rooms = {name: room(seen, worker, want.backbone) for name, worker in workers.items()}

    answers: dict[int, Cut | Refusal] = {}

    def possible(count: int) -> bool:
        widened = dict(rooms)
        for stake in (stake for group in groups[:count] for stake in group):
            widened[stake.worker] += _freed(seen, workers[stake.worker], stake.backbone)
        answers[count] = cut_with(widened)
        return isinstance(answers[count], Cut)

    # More room never makes a cut impossible.
    count = bisect_left(range(len(groups) + 1), True, key=possible)
    cut = answers.get(count)
    if not isinstance(cut, Cut):
        return []
    model = seen.backbones[want.backbone].model
    found: list[Stake] = []
    for stage in cut.stages:
        worker = workers[stage.worker]
        resident = worker.holdings.get(want.backbone, NOTHING).resident
        short = unit_bytes(model, set(stage.units) - resident)
        short += stage_kv_bytes(model, stage, min_tokens(want.max_model_len)) - rooms[stage.worker]
        able = [stake for group in groups[:count] for stake in group if stake.worker == stage.worker]
        found += _enough(seen, worker, able, short)
    return found


def _freed(seen: Snapshot, worker: WorkerSeen, backbone: str) -> int:
    """Bytes on ``worker`` once ``backbone`` has left it."""
    kv = sum(
        worker.kv_bytes.get(pipeline.epoch, pipeline_kv_bytes(seen, pipeline, worker.name))
        for pipeline in seen.by_backbone.get(backbone, ())
    )
    return book(seen, worker).held.get(backbone, 0) + kv
