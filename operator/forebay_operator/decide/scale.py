"""How many replicas a function should have now, and why, in words for people.

Up at once, by the requests that wait or run; down only as the mean of the last minute falls; to zero (or the minimum)
when nothing has run for the grace period.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil

from forebay_operator.decide.load import Memory, Source
from forebay_operator.decide.seen import FunctionSeen

# How often to look again while the mean of the window is what keeps replicas up.
SETTLE_SECONDS = 1.0


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


@dataclass(frozen=True, slots=True)
class Input:
    """A number that a decision was made from. ``sampled_at``: unix seconds."""

    name: str
    value: float
    sampled_at: float
    source: Source


@dataclass(frozen=True, slots=True)
class Scale:
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


def desired(function: FunctionSeen, now: float, current: int = 0, lead: float = 0.0) -> Scale:
    """``current``: replicas that serve now. ``lead``: seconds until one more would answer. A function that was never
    used but serves was adopted: its grace period counts from when it was first seen."""
    spec, demand = function.function.spec, function.demand
    if function.failure is not None and not function.previous:
        return Scale(0, Why.FAILED, f"failed: {function.failure[0]}")
    if spec.suspend:
        return Scale(0, Why.SUSPENDED, "suspended")
    if spec.replicas is not None:
        pinned = spec.replicas
        return Scale(pinned, Why.PINNED, f"pinned to {_replicas(pinned)}", floor=pinned, ceiling=pinned)
    scale = _busy(function) if demand.waiting + demand.in_flight else _idle(function, now, current)
    if demand.blind and scale.desired < current:
        message = "a gateway is missing: nothing is scaled down"
        scale = replace(scale, desired=current, message=message, limit=Limit.BLIND, wake_at=None)
    return _clamped(scale, function)


def _busy(function: FunctionSeen) -> Scale:
    target, demand = function.function.spec.scaling.target, function.demand
    requests = demand.waiting + demand.in_flight
    mean = demand.load.stable
    load = max(float(requests), mean) / target
    wanted = max(ceil(load), 1)
    if wanted > max(ceil(requests / target), 1):
        message = f"{mean:.1f} requests in the last minute's mean at target {target:g}: {_replicas(wanted)}"
        return Scale(wanted, Why.MEAN, message, wake_at=demand.load.sampled_at + SETTLE_SECONDS, load=load)
    plural = "request" if requests == 1 else "requests"
    return Scale(wanted, Why.REQUESTS, f"{requests} {plural} at target {target:g}: {_replicas(wanted)}", load=load)


def _idle(function: FunctionSeen, now: float, current: int) -> Scale:
    scaling, demand = function.function.spec.scaling, function.demand
    since = demand.last_ended or (function.first_seen if current else None)
    grace = scaling.scale_to_zero_grace_period_seconds
    if since is None:
        return Scale(0, Why.NO_REQUEST_YET, "no request yet")
    if now >= since + grace:
        return Scale(0, Why.IDLE, f"idle for {grace} s")
    load = demand.load.stable / scaling.target
    wanted = max(ceil(load), 1)
    wake_at = since + grace if wanted == 1 else min(since + grace, now + SETTLE_SECONDS)
    message = f"idle, kept for {grace} s after the last request: {_replicas(wanted)}"
    return Scale(wanted, Why.KEPT, message, wake_at=wake_at, load=load)


def _clamped(scale: Scale, function: FunctionSeen) -> Scale:
    scaling = function.function.spec.scaling
    low, high = scaling.min_replicas, scaling.max_replicas
    scale = replace(scale, floor=low, ceiling=high)
    if scale.desired < low:
        return replace(scale, desired=low, limit=Limit.MIN, message=f"{scale.message}; minReplicas is {low}")
    if scale.desired > high:
        return replace(scale, desired=high, limit=Limit.MAX, message=f"{scale.message}; maxReplicas is {high}")
    return scale


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
