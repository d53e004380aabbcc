"""What keeps a decision from going where its reason leads: rates, the delay, blindness and the bounds.

Each takes a decision and gives it back, changed where it bites. What comes later outweighs what came before.
"""

from __future__ import annotations

from math import ceil, floor

from forebay_api.function import Scaling
from forebay_operator.decide.decision import Limit, Scale, replicas
from forebay_operator.decide.load import Memory

TICK = 2.0
"""Seconds within which replicas may grow and shrink by their rates once."""

RATES = Limit.UP_RATE, Limit.DOWN_RATE


def ticked(memory: Memory, now: float, current: int) -> Memory:
    """``memory`` in the tick of ``now``, which begins with the ``current`` replicas. No time in it is in the future: a
    clock may be set back."""
    within = memory.tick_began <= now < memory.tick_began + TICK
    if (within or current == memory.tick_base == 0) and not memory.peaks:
        return memory
    peaks = tuple((min(at, now), count) for at, count in memory.peaks)
    began, base = (memory.tick_began, memory.tick_base) if within else (now, current)
    return memory._replace(peaks=peaks, tick_began=began, tick_base=base)


def rated(scale: Scale, memory: Memory, scaling: Scaling) -> Scale:
    """Within a tick no further up and down than the rates allow. What was decided already may stay."""
    base = memory.tick_base
    if scale.desired == base:
        return scale
    most = max(ceil(max(base, 1) * scaling.max_scale_up_rate), memory.last or 0)
    least = min(floor(base / scaling.max_scale_down_rate), most)
    if scale.desired > most:
        return _limited(scale, most, Limit.UP_RATE, f"maxScaleUpRate {scaling.max_scale_up_rate:g} allows {most} now")
    if scale.desired < least:
        message = f"maxScaleDownRate {scaling.max_scale_down_rate:g} keeps {least} for now"
        return _limited(scale, least, Limit.DOWN_RATE, message)
    return scale


def wanted_within(memory: Memory, desired: int, scaling: Scaling, now: float) -> tuple[tuple[float, int], ...]:
    """The `Memory.peaks` with what is ``desired`` now. What was wanted last was wanted until now."""
    seconds = scaling.scale_down_delay_seconds
    if not seconds:
        return ()
    before = memory.peaks
    if before:
        before = (*before[:-1], (now, before[-1][1]))
    return (*((at, count) for at, count in before if at > now - seconds and count > desired), (now, desired))


def delayed(scale: Scale, peaks: tuple[tuple[float, int], ...], scaling: Scaling) -> Scale:
    """The most that was wanted within the delay."""
    if len(peaks) < 2:
        return scale
    most, seconds = peaks[0][1], scaling.scale_down_delay_seconds
    return _limited(scale, most, Limit.DELAY, f"scaleDownDelaySeconds {seconds} keeps {most}")


def seeing(scale: Scale, least: int, why: str) -> Scale:
    """Not below ``least`` while nothing may be concluded from low numbers; ``why`` is empty while something may."""
    if not why or scale.desired >= least:
        return scale
    return _limited(scale, least, Limit.BLIND, f"{replicas(least)} stay, since {why}")


def bounded(scale: Scale, scaling: Scaling) -> Scale:
    low, high = scaling.min_replicas, scaling.max_replicas
    if scale.desired < low:
        return _limited(scale, low, Limit.MIN, f"minReplicas is {low}")
    if scale.desired > high:
        return _limited(scale, high, Limit.MAX, f"maxReplicas is {high}")
    return scale


def ends(scale: Scale, memory: Memory, scaling: Scaling) -> list[float]:
    """Unix seconds when a limit that bites may let go, and when a panic ends; some of them are over."""
    times = [memory.panic_until]
    if not scale.limit:
        return times
    if scale.limit in RATES:
        times.append(memory.tick_began + TICK)
    if scale.limit is Limit.DELAY:
        times.append(memory.peaks[0][0] + scaling.scale_down_delay_seconds)
    return times


def _limited(scale: Scale, desired: int, limit: Limit, message: str) -> Scale:
    return scale._replace(desired=desired, limit=limit, message=f"{scale.message}; {message}")
