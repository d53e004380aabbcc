"""What each backbone has where, as it could be paid with: in which order it gives its workers, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from math import inf

from forebay_operator.decide import routes
from forebay_operator.decide.pressure import NO_TURN, Kind, Stake
from forebay_operator.decide.seen import PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decide.turns import load_seconds, residence
from forebay_operator.decide.want import Want

# Seconds: what takes less to load is not told apart.
INSTANT = 0.001


def stakes(seen: Snapshot, wanted: Iterable[Want], owed: Mapping[str, Set[str]], now: float) -> tuple[Stake, ...]:
    """Of every backbone that is held and ``wanted``, if zero times: that one is on its way out and pays as an idle
    one. Others would never be told to. ``owed``: the workers that each one leaves already: they go first."""
    by_name = {want.backbone: want for want in wanted}
    return tuple(
        stake
        for backbone in sorted(seen.holders.keys() & by_name.keys())
        for stake in _stakes(seen, by_name[backbone], owed.get(backbone, frozenset()), now)
    )


def _stakes(seen: Snapshot, want: Want, owed: Set[str], now: float) -> list[Stake]:
    pipelines = seen.by_backbone.get(want.backbone, ())
    works = any(pipeline.running + pipeline.waiting for pipeline in pipelines)
    asked = want.desired > 0 and (want.pressing or works)
    giving, free = _giving(seen, want, owed)
    turn = seen.turns.of.get(want.backbone, NO_TURN)
    found = []
    for place, worker in enumerate(giving):
        kind = Kind.LAST if place >= free else Kind.SURPLUS if asked else Kind.IDLE
        stays = residence(seen.backbones.get(want.backbone), worker)
        found.append(
            Stake(
                backbone=want.backbone,
                worker=worker.name,
                kind=Kind.IDLE if worker.holdings[want.backbone].leaving else kind,
                priority=want.priority,
                left=len(giving) - place - 1,
                until=turn.since.get(worker.name, now) + stays,
                shield=turn.lifted + stays if turn.lifted else 0.0,
                score=0.0 if works else _score(seen, want.backbone, worker, now),
                place=place,
                asked=asked,
                needs=want.minimum,
            )
        )
    return found


def _giving(seen: Snapshot, want: Want, owed: Set[str]) -> tuple[Sequence[WorkerSeen], int]:
    """The workers of a backbone in the order in which it gives them, and how many of them are above its minimum: those
    on which it does not serve, who hold the least first, then those of longer pipelines, then those that serve alone,
    the least busy first. While fewer serve alone than it needs, it needs them all."""
    serving = routes.formed(seen, want.backbone)
    alone = {pipeline.stages[0].worker: pipeline for pipeline in serving if len(pipeline.stages) == 1}
    staged = {stage.worker for pipeline in serving for stage in pipeline.stages} - alone.keys()
    holders = seen.holders[want.backbone]

    def key(worker: WorkerSeen) -> tuple[bool, bool, bool, int, int, str]:
        name, resident = worker.name, len(worker.holdings[want.backbone].resident)
        return name not in owed, name in alone, name in staged, _requests(alone, name), resident, name

    giving = sorted(holders, key=key)
    needed = want.minimum
    return giving, len(giving) - needed if len(alone) >= needed else 0


def _requests(alone: Mapping[str, PipelineSeen], worker: str) -> int:
    return alone[worker].running + alone[worker].waiting if worker in alone else 0


def _score(seen: Snapshot, backbone: str, worker: WorkerSeen, now: float) -> float:
    """Seconds unused for each second that loading it again would take."""
    known = seen.backbones.get(backbone)
    if known is None:
        return inf
    return max(now - known.last_used, 0.0) / max(load_seconds(known, worker), INSTANT)
