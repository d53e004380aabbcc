"""Who gives devices up when functions want more than exist, to whom, and why: the rules, on claims and stakes alone.

==========  ===================================  =========================================================
what pays   whose                                to whom
==========  ===================================  =========================================================
`IDLE`      nobody asks for it: what is above    anybody who lacks something, at once
            its minimum
`SURPLUS`   replicas above the minimum           higher priority at once; equal: who has two fewer at least,
                                                 when it was had for its residence
`LAST`      what is left                         requests that nothing serves: of higher priority at once;
                                                 equal: when it was had for its residence
==========  ===================================  =========================================================

A claim that has waited for `AGING` seconds counts as equal to whoever is above it, and what it gets is its own for one
residence, whoever asks. Who has just paid rests for a residence before it asks its equals. So everybody who waits is
first in turn at some time, and nothing goes back and forth: a device moves up in priority, or to who has fewer, or
after a residence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from forebay_api.frozen import Frozen

# Seconds: shorter than a model of some GB takes to load, and a device would load more than it serves.
RESIDENCE = 30.0
# A device serves for at least as long as it was loaded for.
LOADS = 2.0
# Seconds of waiting after which priority counts no more: requests are held for 300 s by default, and what lifts late
# lifts nobody.
AGING = 120.0
# Seconds after which a payment that has not come is looked at anew: what pays has long requests, others may be idle.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Payment:
    """``payer`` leaves ``workers`` so that ``receiver`` can have them; both are backbones. ``why`` is for people.
    ``at``: unix seconds when it was decided; ``dear``: ``payer`` has use for what it gives."""

    payer: str
    receiver: str
    workers: tuple[str, ...]
    why: str
    at: float = 0.0
    dear: bool = False


class Turn(NamedTuple):
    """Of one backbone, in unix seconds. ``since``: when it got each worker; ``lacking``: since when requests wait that
    nothing serves; ``lifted``: when it got served though others came before it; ``paid``: when it last gave what it had
    use for. 0: it is not so."""

    since: Mapping[str, float] = Frozen()
    lacking: float = 0.0
    lifted: float = 0.0
    paid: float = 0.0

    def late(self, now: float) -> bool:
        """Whether it has waited for so long that priority counts no more."""
        return bool(self.lacking) and now >= self.lacking + AGING


NO_TURN = Turn()


@dataclass(frozen=True, slots=True)
class Turns:
    """What a pass leaves to the next one: whose turn it is, and the payments that are under way."""

    of: Mapping[str, Turn] = field(default_factory=dict)
    payments: tuple[Payment, ...] = ()


class Kind(IntEnum):
    """What goes first stands first."""

    IDLE = 0
    SURPLUS = 1
    LAST = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """Who lacks devices. ``waiting``: requests that nothing serves. ``has``: workers that it has already. ``rests``:
    unix seconds before which it asks none of equal priority, since it has just paid itself."""

    backbone: str
    priority: int = 0
    waiting: bool = False
    lifted: bool = False
    has: int = 0
    rests: float = 0.0


@dataclass(frozen=True, slots=True)
class Stake:
    """What a backbone has on one worker. ``left``: workers that it has when this one and those that go before it are
    gone. ``until``, ``shield``: unix seconds before which only higher priority, and nobody, may have it. ``score`` of
    idle ones: seconds unused for each second that bringing it back would take. ``place``: in the order in which the
    backbone gives its workers. ``asked``: it has requests. ``needs``: its minimum."""

    backbone: str
    worker: str
    kind: Kind
    priority: int = 0
    left: int = 0
    until: float = 0.0
    shield: float = 0.0
    score: float = 0.0
    place: int = 0
    asked: bool = False
    needs: int = 0


def due(claim: Claim, stake: Stake) -> float | None:
    """Unix seconds from when ``stake`` may be asked to pay to ``claim``; None: not as things are."""
    if stake.backbone == claim.backbone:
        return None
    if stake.kind is Kind.IDLE:
        return 0.0
    if stake.kind is Kind.LAST and not claim.waiting:
        return None
    if claim.priority > stake.priority:
        return stake.shield
    if claim.priority < stake.priority and not claim.lifted:
        return None
    if stake.kind is Kind.SURPLUS and claim.priority == stake.priority and stake.left < claim.has + 1:
        return None
    return max(stake.until, stake.shield, claim.rests)


def payable(claim: Claim, stakes: Iterable[Stake], now: float) -> tuple[Stake, ...]:
    """Of ``stakes`` those that pay to ``claim`` now, the first first."""
    found = [stake for stake in stakes if (at := due(claim, stake)) is not None and at <= now]
    return tuple(sorted(found, key=rank))


def rank(stake: Stake) -> tuple[int, bool, float, float, int, str, str]:
    """Idle ones by score; surplus by priority, the largest first; last ones of the lowest priority, whose turn has
    been the longest, those that nobody asks before those with requests."""
    within = False, -stake.score, 0.0
    if stake.kind is Kind.SURPLUS:
        within = False, float(stake.priority), -float(stake.left)
    elif stake.kind is Kind.LAST:
        within = stake.asked, float(stake.priority), stake.until
    return stake.kind, *within, stake.place, stake.backbone, stake.worker
