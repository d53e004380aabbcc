"""What was decided of how much each function scales, and why: the last decisions, kept to be explained. Decides nothing
itself, and forgets functions that are gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import structlog
from prometheus_client import Gauge

from forebay_api.conditions import ConditionType, Status
from forebay_api.function import FunctionKey
from forebay_operator.decide.decision import Input, Scale, Why
from forebay_operator.decide.plan import Plan
from forebay_operator.decide.pressure import Payment
from forebay_operator.decide.seen import FunctionSeen, Snapshot
from forebay_operator.status import FunctionStatus

log = structlog.get_logger(__name__)

KEPT = 20
"""Decisions that are remembered of one function."""

MOST_NAMED = 3
"""Functions of one backbone that are called by name."""

DESIRED = Gauge("forebay_desired_replicas", "Replicas that are wanted.", ["function"])
READY = Gauge("forebay_ready_replicas", "Replicas that answer.", ["function"])
PANIC = Gauge("forebay_panic_mode", "1 while the load of the panic window decides.", ["function"])
BLIND = Gauge("forebay_scaling_blind", "1 while nothing is scaled down, since too little is known.", ["function"])
GAUGES = (DESIRED, READY, PANIC, BLIND)


@dataclass(frozen=True, slots=True)
class Decision:
    """``at``: unix seconds; ``current``: replicas that answered then; ``message``: a sentence; ``limit``: what kept it
    from going where its reason leads, empty if nothing did. ``paid`` and ``received``: sentences about devices that
    the function gave up, or was given, because there are too few."""

    at: float
    desired: int
    current: int
    reason: str
    message: str
    limit: str = ""
    inputs: tuple[Input, ...] = ()
    paid: tuple[str, ...] = ()
    received: tuple[str, ...] = ()

    @property
    def gist(self) -> tuple[int, str, str]:
        """What makes it another decision than the one before."""
        return self.desired, self.reason, self.limit


@dataclass(slots=True)
class _Function:
    """``present``: of the last pass; ``shown``: what its gauges say, in their order."""

    uid: str
    past: deque[Decision] = field(default_factory=lambda: deque(maxlen=KEPT))
    present: Decision | None = None
    shown: tuple[int, ...] = ()


class Decisions:
    """Told once a pass."""

    def __init__(self) -> None:
        self._functions: dict[FunctionKey, _Function] = {}

    def take(
        self, plan: Plan, seen: Snapshot, statuses: Mapping[FunctionKey, FunctionStatus], now: float
    ) -> Mapping[FunctionKey, Decision]:
        """The present decision of every function, with what it was made from now; remembered where it is another."""
        paid, received = _sentences(plan.payments, seen.functions)
        present = {}
        for function in seen.functions:
            key = function.function.key
            scale, status = plan.scales.get(key), statuses.get(key)
            if scale is None or status is None:
                continue
            decision = Decision(
                at=now,
                desired=scale.desired,
                current=status.ready,
                reason=scale.reason.value,
                message=scale.message,
                limit=scale.limit.value,
                inputs=tuple(given for given in scale.inputs if isfinite(given.value)),
                paid=tuple(paid.get(function.serving, ())),
                received=tuple(received.get(function.serving, ())),
            )
            present[key] = decision
            known = self._known(function)
            _remember(key, known, decision)
            _show(key, known, (scale.desired, status.ready, _panics(scale, now), _blind(status)))
        return present

    def _known(self, function: FunctionSeen) -> _Function:
        """Deleted and made anew under the same name is another function."""
        key, uid = function.function.key, function.function.uid
        if key not in self._functions or self._functions[key].uid != uid:
            self._functions[key] = _Function(uid)
        return self._functions[key]

    def newest_first(self, key: FunctionKey) -> list[Decision]:
        known = self._functions.get(key)
        return list(reversed(known.past)) if known else []

    def keep(self, keys: Collection[FunctionKey]) -> None:
        """Forget functions that are gone."""
        for key in [key for key in self._functions if key not in keys]:
            if self._functions.pop(key).shown:
                for gauge in GAUGES:
                    gauge.remove(str(key))


def _remember(key: FunctionKey, known: _Function, decision: Decision) -> None:
    """A payment is told in every pass until it is on its way, and remembered once."""
    before, known.present = known.present, decision
    if before is not None and before.desired != decision.desired:
        log.info("decided", function=str(key), desired=decision.desired, reason=decision.reason, limit=decision.limit)
    devices = decision.paid, decision.received
    moved = any(devices) and (before is None or devices != (before.paid, before.received))
    if before is None or before.gist != decision.gist or moved:
        known.past.append(decision)


def _show(key: FunctionKey, known: _Function, numbers: tuple[int, ...]) -> None:
    if numbers != known.shown:  # of a thousand functions few change in a pass
        known.shown = numbers
        for gauge, number in zip(GAUGES, numbers, strict=True):
            gauge.labels(str(key)).set(number)


def _panics(scale: Scale, now: float) -> bool:
    return scale.reason is Why.PANIC or scale.memory.panic_until > now


def _blind(status: FunctionStatus) -> bool:
    return any(
        condition.type is ConditionType.SCALING_ACTIVE and condition.status is Status.FALSE
        for condition in status.conditions
    )


Sentences = Mapping[str, Sequence[str]]
"""By backbone."""


def _sentences(payments: Iterable[Payment], functions: Sequence[FunctionSeen]) -> tuple[Sentences, Sentences]:
    """(paid, received). Functions of one backbone pay and receive together."""
    paid: dict[str, list[str]] = {}
    received: dict[str, list[str]] = {}
    for payment in payments:
        where = ", ".join(payment.workers)
        payer, receiver = (_names(backbone, functions) for backbone in (payment.payer, payment.receiver))
        paid.setdefault(payment.payer, []).append(f"gave {where} up for {receiver}: {payment.why}")
        received.setdefault(payment.receiver, []).append(f"got {where} of {payer}: {payment.why}")
    return paid, received


def _names(backbone: str, functions: Iterable[FunctionSeen]) -> str:
    names = sorted(str(function.function.key) for function in functions if function.serving == backbone)
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return " and ".join([*names[:MOST_NAMED], *more]) or "a function that is gone"
