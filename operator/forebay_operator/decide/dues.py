"""The payments of one pass: those under way from earlier ones, those asked for now, and who must keep off what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

from forebay_api.conditions import Reason
from forebay_operator.decide import levy, turns
from forebay_operator.decide.cut import Cut, Refusal
from forebay_operator.decide.pressure import PATIENCE, Kind, Payment, Stake, Turns
from forebay_operator.decide.seen import Snapshot
from forebay_operator.decide.stakes import stakes
from forebay_operator.decide.want import Want

Placer = Callable[[Snapshot, Want, Set[str], Mapping[str, int]], Cut | Refusal]
"""The cut of what is wanted that is possible without some workers, when each has that much room."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What a backbone does not get without others: ``refusal``: why nothing serves it; ``more``: workers that it wants
    beside those that it has."""

    refusal: Refusal | None = None
    more: int = 0

    def __bool__(self) -> bool:
        return self.refusal is not None or self.more > 0


NO_LACK = Lack()


@dataclass(slots=True)
class Dues:
    """Backbones are asked in the order in which room is made for them. What is promised to one is not promised to those
    after it, and who has nothing there keeps off."""

    wanted: Sequence[Want]
    before: Turns
    now: float
    place: Placer
    payments: list[Payment] = field(init=False)
    new: list[Payment] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)
    _owed: dict[str, set[str]] = field(init=False)
    _reserved: set[str] = field(default_factory=set)
    _stakes: tuple[Stake, ...] | None = None

    def __post_init__(self) -> None:
        self._pay(self.before.payments)

    def _pay(self, payments: Sequence[Payment]) -> None:
        """``payments`` are those under way from now on; ``_owed`` are the workers that each payer leaves."""
        self.payments = list(payments)
        self._owed = {}
        for payment in payments:
            self._owed.setdefault(payment.payer, set()).update(payment.workers)

    def banned(self, seen: Snapshot, want: Want) -> frozenset[str]:
        """The workers that ``want`` may not use."""
        if not self._reserved and want.backbone not in self._owed:
            return want.outside(seen)
        strange = {name for name in self._reserved if want.backbone not in seen.named[name].holdings}
        return want.outside(seen).union(self._owed.get(want.backbone, ()), strange)

    def settle(self, seen: Snapshot, want: Want, lack: Lack) -> Sequence[Payment]:
        """Sees to it that somebody pays to ``want`` what it lacks, if anybody has to: who is asked to now."""
        mine = [payment for payment in self.payments if payment.receiver == want.backbone]
        if not (lack or mine):
            return ()
        found = levy.NOTHING
        if lack and all(self.now < payment.at + PATIENCE for payment in mine) and turns.under_way(seen, mine):
            found = self._instead(seen, want, lack, mine)
            if not found.payments:
                self._keep(seen, want, lack, mine)
                return ()
        elif lack and want.claims:
            found = self._levy(seen, want, lack)
        refusal = found.refusal or lack.refusal
        if refusal is not None:
            paying = want.backbone in self._owed
            self.refused[want.backbone] = Refusal(Reason.QUEUED, refusal.message) if paying else refusal
        if found.wake_at is not None:
            self.wakes.append(found.wake_at)
        if mine:
            self._pay([payment for payment in self.payments if payment.receiver != want.backbone])
        if found.payments:
            self._take(seen, want, lack, found)
        return found.payments

    def left(self) -> Turns:
        """What the next pass must know."""
        payers = {payment.payer for payment in self.new if payment.dear}
        return turns.after(self.before, self.payments, payers, self.now)

    def wake_at(self) -> float | None:
        return min((*self.wakes, *(payment.at + PATIENCE for payment in self.payments)), default=None)

    def _instead(self, seen: Snapshot, want: Want, lack: Lack, mine: Sequence[Payment]) -> levy.Levy:
        """Of who is idle by now, what others who pay have use for and have not left yet."""
        if lack.refusal is None or not any(payment.dear for payment in mine):
            return levy.NOTHING
        return self._levy(seen, want, lack, besides=frozenset(payment.payer for payment in mine))

    def _levy(self, seen: Snapshot, want: Want, lack: Lack, besides: Set[str] | None = None) -> levy.Levy:
        """``besides``: of idle ones alone, and none of these."""
        if lack.refusal is not None and lack.refusal.reason is not Reason.INSUFFICIENT_GPUS:
            return levy.NOTHING
        if self._stakes is None:
            self._stakes = stakes(seen, self.wanted, self._owed, self.now)
        able = self._stakes
        if besides is not None:
            able = tuple([s for s in able if s.kind is Kind.IDLE and s.backbone not in besides])
        owed = self._owed.get(want.backbone, set())
        asks = levy.claim(seen, want, owed, self.now)
        banned = want.outside(seen) | self._reserved | owed
        if lack.refusal is not None:
            cut_with = partial(self.place, seen, want, self.banned(seen, want))
            return levy.for_first(seen, want, asks, able, banned, cut_with, self.now)
        return levy.for_more(seen, want, asks, able, banned, lack.more, self.now)

    def _keep(self, seen: Snapshot, want: Want, lack: Lack, mine: Sequence[Payment]) -> None:
        self._reserved.update(worker for payment in mine for worker in payment.workers if worker in seen.named)
        if lack.refusal is not None:
            self.refused[want.backbone] = levy.making_room(seen, mine)

    def _take(self, seen: Snapshot, want: Want, lack: Lack, found: levy.Levy) -> None:
        """Who comes later in the order and was promised the same goes without."""
        taken = {worker for payment in found.payments for worker in payment.workers}
        others = [replace(p, workers=tuple(w for w in p.workers if w not in taken)) for p in self.payments]
        self._pay([*(payment for payment in others if payment.workers), *found.payments])
        self.new += found.payments
        self._stakes = None
        self._keep(seen, want, lack, found.payments)
