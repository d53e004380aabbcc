"""Whose turn it is: since when each backbone has what it has or lacks what it needs, and which payments are under way.

Workers report what they hold, not since when. So each pass leaves to the next what it saw first; an operator that just
began counts from then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from forebay_operator.decide import routes
from forebay_operator.decide.links import share
from forebay_operator.decide.pressure import LOADS, NO_TURN, RESIDENCE, Payment, Turn, Turns
from forebay_operator.decide.seen import BackboneSeen, Snapshot, WorkerSeen


def advanced(seen: Snapshot, waiting: Mapping[str, float], claiming: Set[str], now: float) -> Turns:
    """What the pass before left, brought up to ``now``. ``waiting``: of each backbone for which requests wait, unix
    seconds since when; ``claiming``: backbones that may be paid."""
    concerned = {*seen.holders, *seen.by_backbone, *waiting, *seen.turns.of}
    found = ((backbone, _turn(seen, backbone, waiting.get(backbone), now)) for backbone in sorted(concerned))
    turns = {backbone: turn for backbone, turn in found if turn != NO_TURN}
    payments = (payment for payment in seen.turns.payments if payment.receiver in claiming)
    return Turns(turns, tuple(payments))


def under_way(seen: Snapshot, payments: Sequence[Payment]) -> bool:
    """Whether somebody has not left yet who shall."""
    return any(worker.name in payment.workers for payment in payments for worker in seen.holders.get(payment.payer, ()))


def after(turns: Turns, payments: Sequence[Payment], payers: Set[str], now: float) -> Turns:
    """What this pass leaves, with ``payments`` under way; ``payers``: who gives in this pass what it has use for."""
    paid = {backbone: turns.of.get(backbone, NO_TURN)._replace(paid=now) for backbone in payers}
    return Turns({**turns.of, **paid}, tuple(payments))


def residence(known: BackboneSeen | None, worker: WorkerSeen) -> float:
    """Seconds for which ``worker`` is left to the backbone that got it."""
    if known is None:
        return 0.0
    return max(RESIDENCE, LOADS * load_seconds(known, worker))


def load_seconds(known: BackboneSeen, worker: WorkerSeen) -> float:
    """Of the whole model over the worker's link, alone on it."""
    return known.model.link_bytes / share(worker.link)


def _turn(seen: Snapshot, backbone: str, waits: float | None, now: float) -> Turn:
    before = seen.turns.of.get(backbone)
    known = before or NO_TURN
    paid = known.paid if now < known.paid + RESIDENCE else 0.0
    since = {
        worker.name: known.since.get(worker.name, now)
        for worker in seen.holders.get(backbone, ())
        if not worker.holdings[backbone].leaving
    }
    if routes.formed(seen, backbone):
        return Turn(since, lifted=now if known.late(now) else known.lifted, paid=paid)
    if waits is None:
        return Turn(since, paid=paid)
    # What was served until now waits since now, however long some of its requests were held.
    return Turn(since, lacking=known.lacking or (now if before else min(waits or now, now)), paid=paid)
