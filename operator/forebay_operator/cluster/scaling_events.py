"""What is told of a function's scaling: up or down it went, or too little is known to scale it down. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forebay_api.conditions import Condition, ConditionType, Reason, Status
from forebay_operator.decisions import Decision
from forebay_operator.status import FunctionStatus

STILL = "until this is over; requests still start it, and what gateways count scales it up"


@dataclass(frozen=True, slots=True)
class News:
    """``reason``: one CamelCase word; ``note``: a sentence. What is ``alike`` is counted into the first one's.
    ``begins``: it was not so before."""

    reason: str
    note: str
    alike: str
    warning: bool = False
    begins: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What was told of a function's scaling. ``blind``: the reason, empty while enough is known; ``desired`` None:
    nobody knows."""

    blind: str = ""
    desired: int | None = None

    @classmethod
    def stored(cls, status: Mapping[str, Any]) -> Sight:
        """What an operator before told. How many it wanted is no news to a new one, which may only not have heard
        of a request."""
        entries = status.get("conditions") or ()
        found = (entry for entry in entries if entry.get("type") == ConditionType.SCALING_ACTIVE)
        reasons = (str(entry.get("reason")) for entry in found if entry.get("status") == Status.FALSE)
        return cls(next((reason for reason in reasons if reason != Reason.NOT_YET_KNOWN), ""))

    def following(self, status: FunctionStatus, decision: Decision | None, *, settled: bool) -> Sight:
        """What there is to tell now. Until a new operator has ``settled``, it is blind as everybody is at first."""
        desired = decision.desired if decision else self.desired
        blind = self._blind(_scaling_active(status.conditions), settled=settled)
        return self if (blind, desired) == (self.blind, self.desired) else Sight(blind, desired)

    def _blind(self, active: Condition | None, *, settled: bool) -> str:
        if active is None or active.status is Status.UNKNOWN or active.reason == Reason.NOT_YET_KNOWN:
            return self.blind
        if active.status is Status.TRUE:
            return ""
        return active.reason if settled else self.blind


def news(before: Sight, now: Sight, status: FunctionStatus, decision: Decision | None) -> Iterator[News]:
    if now is before:
        return
    active = _scaling_active(status.conditions)
    if active is not None and now.blind != before.blind:
        if now.blind:
            yield News("ScalingBlind", f"{active.message} {STILL}", now.blind, warning=True, begins=not before.blind)
        elif active.reason == Reason.SCALING:  # else somebody else decides now
            yield News("ScalingSees", "enough is known again to scale it up and down", "")
    if decision is not None and before.desired and now.desired and before.desired != now.desired:
        up = now.desired > before.desired
        note = f"from {before.desired} to {now.desired}: {decision.message}"
        yield News("ScaledUp" if up else "ScaledDown", note, f"{before.desired} {now.desired}")


def _scaling_active(conditions: Sequence[Condition]) -> Condition | None:
    return next((entry for entry in conditions if entry.type is ConditionType.SCALING_ACTIVE), None)
