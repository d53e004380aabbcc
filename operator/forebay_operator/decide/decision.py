"""What a scaling decision says: the number, its reason, what limited it, and the numbers that it was made from.

Named tuples: they are made for every function in every pass, and cost a third of a frozen class. What a decision is
made from, in `gauge` and `scale`, is not even frozen: nobody else gets to see it, and it is read in half the time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from forebay_operator.decide.load import Memory, Source


class Why(StrEnum):
    """What a decision follows from, in one word."""

    FAILED = "Failed"
    SUSPENDED = "Suspended"
    PINNED = "Pinned"
    EXTERNAL = "External"
    NO_REQUEST_YET = "NoRequestYet"
    IDLE = "Idle"
    KEPT = "Kept"
    REQUESTS = "Requests"
    MEAN = "Mean"
    PANIC = "Panic"
    TREND = "Trend"


class Limit(StrEnum):
    """What kept a decision from going where its reason leads."""

    NONE = ""
    MIN = "minReplicas"
    MAX = "maxReplicas"
    UP_RATE = "maxScaleUpRate"
    DOWN_RATE = "maxScaleDownRate"
    DELAY = "scaleDownDelaySeconds"
    BLIND = "blind"


class Input(NamedTuple):
    """A number that a decision was made from. ``sampled_at``: unix seconds."""

    name: str
    value: float
    sampled_at: float
    source: Source


class Scale(NamedTuple):
    """``message`` is a sentence for people. ``wake_at``: unix seconds when time alone may change the answer. ``load``:
    replicas' worth of requests, not rounded. ``memory``: for the next decision.

    ``floor``: replicas that are wanted though nobody asks; ``ceiling``: the most there may be."""

    desired: int
    reason: Why
    message: str
    limit: Limit = Limit.NONE
    inputs: tuple[Input, ...] = ()
    wake_at: float | None = None
    load: float = 0.0
    floor: int = 0
    ceiling: int = 0
    memory: Memory = Memory()


def replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
