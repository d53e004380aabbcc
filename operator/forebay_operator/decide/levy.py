"""What others pay to one backbone that lacks devices, and what is said about it: to whom, by whom, why, and when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from math import inf

from forebay_api.conditions import Reason
from forebay_operator.decide import evict
from forebay_operator.decide.cut import Refusal
from forebay_operator.decide.pressure import AGING, NO_TURN, RESIDENCE, Claim, Kind, Payment, Stake, due, payable
from forebay_operator.decide.seen import Snapshot
from forebay_operator.decide.want import Want


@dataclass(frozen=True, slots=True)
class Levy:
    """``refusal``: why there is nothing yet. ``wake_at``: unix seconds when
    somebody who may not be asked now may be."""

    payments: tuple[Payment, ...] = ()
    refusal: Refusal | None = None
    wake_at: float | None = None


NOTHING = Levy()


def claim(seen: Snapshot, want: Want, owed: Set[str], now: float) -> Claim:
    """``owed``: workers that it leaves itself."""
    turn = seen.turns.of.get(want.backbone, NO_TURN)
    return Claim(
        backbone=want.backbone,
        priority=want.priority,
        waiting=turn.lacking > 0,
        lifted=turn.late(now),
        has=sum(worker.name not in owed for worker in seen.holders.get(want.backbone, ())),
        rests=turn.paid + RESIDENCE if turn.paid else 0.0,
    )


def for_first(
    seen: Snapshot,
    want: Want,
    asks: Claim,
    stakes: Sequence[Stake],
    banned: Set[str],
    cut_with: evict.Cutter,
    now: float,
) -> Levy:
    """So that a backbone can be placed that nothing serves."""

    tried = 0

    def paying(able: Sequence[Stake]) -> list[Stake]:
        nonlocal tried
        more, tried = len(able) > tried, len(able)  # each time at least those of the time before
        return evict.for_first(seen, want, able, banned, cut_with) if more else []

    some_time = payable(asks, stakes, inf)
    if found := paying(payable(asks, some_time, now)):
        return _levied(seen, asks, found, now)
    if later := paying(some_time):
        at = max(due(asks, stake) or 0.0 for stake in later)
        names = " and ".join(dict.fromkeys(_names(seen, stake.backbone) for stake in later))
        return Levy(refusal=Refusal(Reason.QUEUED, f"waits until {names} had its turn on a worker"), wake_at=at)
    if asks.waiting and not asks.lifted and paying(payable(replace(asks, lifted=True), stakes, inf)):
        why = f"functions of higher priority have the devices; priority counts no more after {AGING:.0f} s of waiting"
        at = seen.turns.of[asks.backbone].lacking + AGING
        return Levy(refusal=Refusal(Reason.QUEUED, why), wake_at=at)
    return NOTHING


def for_more(
    seen: Snapshot, want: Want, asks: Claim, stakes: Sequence[Stake], banned: Set[str], lacking: int, now: float
) -> Levy:
    """So that up to ``lacking`` more workers can hold all of a backbone that is served already."""
    found: list[Stake] = []
    for more in range(lacking):
        taken = {*banned, *(stake.worker for stake in found)}
        able = [s for s in payable(replace(asks, has=asks.has + more), stakes, now) if s.worker not in taken]
        paying = evict.for_more(seen, want, able, taken)
        if not paying:
            break
        found += paying
    if found:
        return _levied(seen, asks, found, now)
    later = (due(asks, stake) for stake in stakes if stake.worker not in banned)
    return Levy(wake_at=min((at for at in later if at is not None and at > now), default=None))


def making_room(seen: Snapshot, payments: Iterable[Payment]) -> Refusal:
    """What is said of a backbone until those who pay have left."""
    parts = [f"{_names(seen, payment.payer)} makes room on {', '.join(payment.workers)}" for payment in payments]
    return Refusal(Reason.QUEUED, "; ".join(parts))


def _levied(seen: Snapshot, asks: Claim, found: Sequence[Stake], now: float) -> Levy:
    by_payer: dict[str, list[Stake]] = {}
    for stake in found:
        by_payer.setdefault(stake.backbone, []).append(stake)
    payments = tuple(
        Payment(
            payer=payer,
            receiver=asks.backbone,
            workers=tuple(stake.worker for stake in paid),
            why=_why(seen, asks, paid, now),
            at=now,
            dear=any(stake.kind is not Kind.IDLE for stake in paid),
        )
        for payer, paid in by_payer.items()
    )
    return Levy(payments)


def _why(seen: Snapshot, asks: Claim, paid: Sequence[Stake], now: float) -> str:
    worst = max(paid, key=lambda stake: stake.kind)
    return f"{_payer(seen, asks, worst)}; {_receiver(seen, asks, now)}"


def _payer(seen: Snapshot, asks: Claim, stake: Stake) -> str:
    name = _names(seen, stake.backbone)
    match stake.kind:
        case Kind.IDLE:
            return f"{name} is idle"
        case Kind.SURPLUS:
            return f"{name} has {_workers(stake.left + stake.place + 1)} and needs {stake.needs}"
        case _ if asks.priority > stake.priority:
            return f"{name} has priority {stake.priority}, {_names(seen, asks.backbone)} has {asks.priority}"
        case _ if asks.priority < stake.priority:
            return f"{name} has priority {stake.priority}, which counts no more after {AGING:.0f} s of waiting"
    return f"{name} had its turn"


def _receiver(seen: Snapshot, asks: Claim, now: float) -> str:
    name = _names(seen, asks.backbone)
    turn = seen.turns.of.get(asks.backbone, NO_TURN)
    if turn.lacking:
        return f"{name} has waited {max(now - turn.lacking, 0.0):.1f} s"
    return f"{name} has {_workers(asks.has)} and wants more"


def _names(seen: Snapshot, backbone: str) -> str:
    """The functions that use ``backbone``."""
    keys = (function.function.key for function in seen.functions if backbone in (function.backbone, function.previous))
    return " and ".join(map(str, keys)) or "a model that nobody uses"


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"
