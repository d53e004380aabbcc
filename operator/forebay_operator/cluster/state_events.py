"""What is told of a function's state: that it loads, answers, rests, failed, and is well again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forebay_api.conditions import ConditionType, Reason, State, Status
from forebay_operator.cluster.pending import Subject, Told
from forebay_operator.status import FunctionStatus

Failure = tuple[str, int]
"""Reason, and the generation of the spec that failed: with another of either it is told again."""

NO_FAILURE: Failure = ("", 0)
STALLED = (ConditionType.STALLED.value, Status.TRUE.value)


@dataclass(frozen=True, slots=True)
class Phase:
    """What was told of a function. ``state`` empty: nobody knows."""

    state: str = ""
    failure: Failure = NO_FAILURE

    @classmethod
    def stored(cls, status: Mapping[str, Any]) -> Phase:
        """What an operator before told."""
        entries = status.get("conditions") or ()
        stalled = (entry for entry in entries if (entry.get("type"), entry.get("status")) == STALLED)
        failures = ((str(entry.get("reason")), int(entry.get("observedGeneration") or 0)) for entry in stalled)
        return cls(str(status.get("state", "")), next(failures, NO_FAILURE))

    def following(self, status: FunctionStatus, *, settled: bool) -> Phase:
        """What there is to tell now. That nothing runs is told of what could be called, and by an operator that has
        ``settled``: until then workers may only not have come back to it, and a model that is looked at anew may fail
        again. Who waited for workers and gave up is told of when it waits again."""
        if status.state is State.IDLE and self.state:
            tells = status.reason == Reason.READY or self.state == State.QUEUED
            if not (settled and tells):
                return self
        failed = status.state is State.FAILED
        found = Phase(status.state.value, (status.reason, _generation(status)) if failed else NO_FAILURE)
        return self if found == self else found


def _generation(status: FunctionStatus) -> int:
    return max((condition.observed_generation for condition in status.conditions), default=0)


def change(subject: Subject, before: str, status: FunctionStatus) -> Told | None:
    """What to tell of a function that came from the state ``before`` (empty: nobody knows) into another one, or failed
    in another way."""
    match status.state:
        case State.FAILED:
            return Told(subject, status.reason, status.message or "it cannot be served", warning=True)
        case State.SUSPENDED:
            return Told(subject, "Suspended", status.message or "it is switched off")
        case State.QUEUED:
            return Told(subject, "RequestsWaiting", "requests wait until workers are found for it")
        case State.LOADING:
            return Told(subject, "Loading", "workers load the model")
        case State.PIPELINED:
            return Told(subject, "ServingPipelined", "answers while it loads: several workers hold a part each")
        case State.SERVING:
            return Told(subject, "Serving", f"{status.ready} of {status.desired} replicas answer")
        case State.IDLE if before in (State.SERVING, State.PIPELINED, State.DRAINING, State.LOADING):
            return Told(subject, "ScaledToZero", "no requests: nothing is held for it; the next request starts it")
        case State.IDLE if before in (State.FAILED, State.SUSPENDED):
            return Told(subject, "Recovered", "the next request starts it")
    return None
