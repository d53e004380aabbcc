"""How many replicas a function should have now, and why, in words for people.

Up at once, by the requests that wait or run; down only as the mean of the last minute falls; to zero (or the minimum)
when nothing has run for the grace period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from forebay_operator.decide.seen import FunctionSeen

WINDOW_SECONDS = 60.0
# How often to look again while the mean of the window is what keeps replicas up.
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Scale:
    """``wake_at``: unix seconds when time alone may change the answer. ``load``: replicas' worth of requests, not
    rounded.

    ``floor``: replicas that are wanted though nobody asks; ``ceiling``: the most there may be."""

    desired: int
    reason: str
    wake_at: float | None = None
    load: float = 0.0
    floor: int = 0
    ceiling: int = 0


def desired(function: FunctionSeen, now: float, current: int = 0) -> Scale:
    """``current``: replicas that serve now. A function that was never used but serves was adopted: its grace period
    counts from when it was first seen."""
    spec, demand = function.function.spec, function.demand
    if function.failure is not None and not function.previous:
        return Scale(0, f"failed: {function.failure[0]}")
    if spec.suspend:
        return Scale(0, "suspended")
    if spec.replicas is not None:
        pinned = spec.replicas
        return Scale(pinned, f"pinned to {_replicas(pinned)}", floor=pinned, ceiling=pinned)
    scale = _busy(function, now) if demand.waiting + demand.in_flight else _idle(function, now, current)
    if demand.blind and scale.desired < current:
        scale = replace(scale, desired=current, reason="a gateway is missing: nothing is scaled down", wake_at=None)
    return _clamped(scale, function)


def _busy(function: FunctionSeen, now: float) -> Scale:
    target, demand = function.function.spec.scaling.target, function.demand
    requests = demand.waiting + demand.in_flight
    mean = mean_of(demand.window, now)
    load = max(float(requests), mean) / target
    wanted = max(ceil(load), 1)
    if wanted > max(ceil(requests / target), 1):
        reason = f"{mean:.1f} requests in the last minute's mean at target {target:g}: {_replicas(wanted)}"
        return Scale(wanted, reason, now + SETTLE_SECONDS, load)
    plural = "request" if requests == 1 else "requests"
    return Scale(wanted, f"{requests} {plural} at target {target:g}: {_replicas(wanted)}", None, load)


def _idle(function: FunctionSeen, now: float, current: int) -> Scale:
    scaling, demand = function.function.spec.scaling, function.demand
    since = demand.last_ended or (function.first_seen if current else None)
    grace = scaling.scale_to_zero_grace_period_seconds
    if since is None:
        return Scale(0, "no request yet")
    if now >= since + grace:
        return Scale(0, f"idle for {grace} s")
    load = mean_of(demand.window, now) / scaling.target
    wanted = max(ceil(load), 1)
    wake_at = since + grace if wanted == 1 else min(since + grace, now + SETTLE_SECONDS)
    return Scale(wanted, f"idle, kept for {grace} s after the last request: {_replicas(wanted)}", wake_at, load)


def _clamped(scale: Scale, function: FunctionSeen) -> Scale:
    scaling = function.function.spec.scaling
    low, high = scaling.min_replicas, scaling.max_replicas
    scale = replace(scale, floor=low, ceiling=high)
    if scale.desired < low:
        return replace(scale, desired=low, reason=f"{scale.reason}; minReplicas is {low}")
    if scale.desired > high:
        return replace(scale, desired=high, reason=f"{scale.reason}; maxReplicas is {high}")
    return scale


def mean_of(window: Sequence[tuple[float, float]], now: float) -> float:
    """Over the last minute, weighted by how long each value stood; the last one stands until now. 0 without samples."""
    start = max(window[0][0], now - WINDOW_SECONDS) if window else now
    if start >= now:
        return 0.0
    ends = [*(time for time, _ in window[1:]), now]
    total = sum(
        value * max(min(end, now) - max(time, start), 0.0) for (time, value), end in zip(window, ends, strict=True)
    )
    return total / (now - start)


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"
