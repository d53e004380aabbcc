"""How far a cold start is, for those who wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forebay_operator.timeline import ColdStart


class Phase(StrEnum):
    QUEUED = "Queued"
    PLANNING = "Planning"
    LOADING = "Loading"
    SERVING = "Serving"


@dataclass(frozen=True, slots=True)
class Progress:
    """``fraction`` of the bytes that the first token needs; ``eta`` in seconds from now, 0 = unknown or due."""

    phase: Phase
    fraction: float
    eta: float


def progress(start: ColdStart | None, *, waiting: bool, formed: bool, now: float) -> Progress | None:
    """Of a function's last cold start; None where nothing is on its way.

    planned  first byte  servable  first token
       no        ·          ·          ·        Queued, if requests wait
      yes        no         no         ·        Planning
      yes       yes         no         ·        Loading
      yes       yes        yes         no       Serving, if requests wait
      yes       yes        yes        yes       (none)
    """
    if start is None or start.over or (start.servable_at is not None and start.first_token_at is not None):
        return Progress(Phase.QUEUED, 0.0, 0.0) if waiting and not formed else None
    if start.servable_at is not None:
        return Progress(Phase.SERVING, 1.0, 0.0) if waiting else None
    phase = Phase.PLANNING if start.first_byte_at is None else Phase.LOADING
    return Progress(phase, start.fraction, _eta(start, now))


def _eta(start: ColdStart, now: float) -> float:
    if start.predicted is None:
        return 0.0
    began = start.first_byte_at or max(now, start.planned_at + start.predicted.wait)
    return max(0.0, began + start.predicted.first_token - now)
