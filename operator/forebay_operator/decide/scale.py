"""How many replicas a function should have now, and why, in words for people.

Zero to one at once, by what gateways hold. From there on

    up      as soon as a mean says so: the long one, the short one (a panic), or where they lead to (a trend)
    down    when the long mean fits into fewer replicas with room to spare, not in a panic
    to 0    when nothing has run for the grace period

and then what limits it, see `limits`. The one that decides remembers nothing: what it knows of before it is handed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isclose

from forebay_api.function import Scaling, ScalingMetric, ScalingMode
from forebay_operator.decide import limits
from forebay_operator.decide.decision import Input, Limit, Scale, Why, replicas
from forebay_operator.decide.gauge import DIGITS, Gauge, Means, gauge, panic_seconds
from forebay_operator.decide.load import Memory, Source
from forebay_operator.decide.seen import FunctionSeen

__all__ = ["Input", "Limit", "Scale", "Why", "desired"]

ROOM = 0.8
"""Share of fewer replicas that the load must fit into before any goes: noise of a fifth makes none come and go."""

LOOK_SECONDS = 2.0
"""How often to look again while means move, at the same moments for all functions."""


def desired(function: FunctionSeen, now: float, current: int = 0, lead: float = 0.0) -> Scale:
    """``current``: replicas that serve now. ``lead``: seconds until one more would answer. A function that was never
    used but serves was adopted: its grace period counts from when it was first seen."""
    spec = function.function.spec
    if function.failure is not None and not function.previous:
        return Scale(0, Why.FAILED, f"failed: {function.failure[0]}")
    if spec.suspend:
        return Scale(0, Why.SUSPENDED, "suspended")
    if spec.scaling.mode is ScalingMode.EXTERNAL:
        return _external(function, now, current)
    if spec.replicas is not None:
        pinned = spec.replicas
        return Scale(pinned, Why.PINNED, f"pinned to {replicas(pinned)}", floor=pinned, ceiling=pinned)
    return _automatic(_case(function, now, current, lead))


def _external(function: FunctionSeen, now: float, current: int) -> Scale:
    """What the other autoscaler wants. At 0, ours is the one that a request brings, until its grace period is over."""
    asked, demand = function.function.spec.replicas or 0, function.demand
    ceiling = max(asked, 1)
    scale = Scale(asked, Why.EXTERNAL, f"spec.replicas asks for {replicas(asked)}", floor=asked, ceiling=ceiling)
    grace = function.function.spec.scaling.scale_to_zero_grace_period_seconds
    until = demand.last_ended + grace
    if asked:
        return scale
    if demand.waiting + demand.in_flight:
        return scale._replace(desired=1, message=f"{scale.message}; 1 replica for a request", load=1.0)
    if demand.blind and current:
        return scale._replace(desired=1, message=f"{scale.message}; 1 replica stays, since a gateway is missing")
    if demand.last_ended and now < until:
        message = f"{scale.message}; 1 replica for {grace} s after the last request"
        return scale._replace(desired=1, message=message, wake_at=until)
    return scale


@dataclass(slots=True)  # not frozen: see `decision`
class _Case:
    """All that one decision is made from. ``requests`` wait or run. ``before``: replicas that were decided on last;
    those that serve, where nothing was. ``idle_since``: None while requests wait or run, and where none ever did."""

    function: FunctionSeen
    scaling: Scaling
    found: Gauge
    now: float
    current: int
    lead: float
    requests: int
    before: int
    idle_since: float | None

    @property
    def burst(self) -> float:
        """Replicas' worth of the panic window. While nothing serves, what is held cannot go away by itself."""
        panic, each = self.found.panic.panic, self.found.each
        return panic if self.current or not each else max(panic, round(self.requests / each, DIGITS))


def _case(function: FunctionSeen, now: float, current: int, lead: float) -> _Case:
    demand, last = function.demand, function.memory.last
    requests = demand.waiting + demand.in_flight
    idle_since = None if requests else demand.last_ended or (function.first_seen if current else None)
    before = current if last is None else last
    scaling = function.function.spec.scaling
    return _Case(function, scaling, gauge(function), now, current, lead, requests, before, idle_since)


def _automatic(case: _Case) -> Scale:
    rest = _rest(case)
    if rest is None:
        return _limited(case, _panicking(case, _by_means(case)))
    if not _is_at_zero(case):
        return _limited(case, Scale(0, *rest))
    memory = Memory(0, tick_began=case.function.memory.tick_began)
    return Scale(0, *rest, Limit.NONE, _inputs(case), None, 0.0, 0, case.scaling.max_replicas, memory)


def _limited(case: _Case, scale: Scale) -> Scale:
    scaling, now = case.scaling, case.now
    until, peak = scale.memory.panic_until, scale.memory.panic_peak
    unknown = case.found.blind or (case.found.filling if scale.desired else "")
    memory = limits.ticked(case.function.memory, now, case.current)
    scale = limits.rated(scale, memory, scaling)
    peaks = limits.wanted_within(memory, scale.desired, scaling, now)
    scale = limits.delayed(scale, peaks, scaling)
    scale = limits.seeing(scale, max(case.before, case.current), unknown)
    scale = limits.bounded(scale, scaling)
    peak = max(peak, scale.desired) if until else 0
    memory = Memory(scale.desired, until, peak, memory.tick_began, memory.tick_base, peaks)
    # Made whole at once: of a thousand functions, this is what a pass takes longest for.
    return Scale(
        scale.desired,
        scale.reason,
        scale.message,
        scale.limit,
        _inputs(case),
        _wake_at(case, scale, memory),
        min(scale.load, float(scale.desired)),
        scaling.min_replicas,
        scaling.max_replicas,
        memory,
    )


def _is_at_zero(case: _Case) -> bool:
    """Whether one that rests was there before. Nothing limits that, and only a request wakes it: so it is with most."""
    memory, scaling = case.function.memory, case.scaling
    serves = case.current or case.before or memory.tick_base
    return not (serves or memory.peaks or scaling.scale_down_delay_seconds or scaling.min_replicas)


def _rest(case: _Case) -> tuple[Why, str] | None:
    """Why zero, when nobody asks and nobody has for the grace period."""
    if case.requests:
        return None
    since, grace = case.idle_since, case.scaling.scale_to_zero_grace_period_seconds
    if since is None:
        return Why.NO_REQUEST_YET, "no request yet"
    return (Why.IDLE, f"idle for {grace} s") if case.now >= since + grace else None


def _by_means(case: _Case) -> Scale:
    """By the long mean and where it leads to; one replica at least."""
    means, before = case.found.stable, case.before
    count = enough = ceil(means.stable)
    if before > enough:
        count = min(ceil(round(means.stable / ROOM, DIGITS)), before)
    if (expected := _trend(case, max(count, 1))) is not None:
        return expected
    if count:
        seconds = case.scaling.window_seconds
        said = f"{_amount(means, means.load.stable)} (mean of {seconds} s, {means.source}), {_per(means, count)}"
        room = f", since {count - 1} would have too little to spare" if count > enough else ""
        return Scale(count, Why.MEAN, said + room, load=means.stable)
    if case.requests:
        plural = "request waits or runs" if case.requests == 1 else "requests wait or run"
        return Scale(1, Why.REQUESTS, f"{case.requests} {plural}: 1 replica", load=means.stable)
    grace = case.scaling.scale_to_zero_grace_period_seconds
    return Scale(1, Why.KEPT, f"idle, kept for {grace} s after the last request: 1 replica")


def _trend(case: _Case, count: int) -> Scale | None:
    """Where what rises leads to in time, if that is more than ``count`` replicas."""
    if case.lead <= 0:
        return None
    worths = [found.in_time(case.scaling, case.lead) for found in case.found.rising]
    worth = max(worths)
    if worth <= count:
        return None
    rising = case.found.rising[worths.index(worth)]
    seconds = min(case.lead, float(case.scaling.window_seconds))
    when = f"in {seconds:.0f} s" if seconds >= 1 else "within a second"
    expected = f"rising: {_amount(rising, worth * rising.per_replica)} expected {when}"
    return Scale(ceil(worth), Why.TREND, f"{expected} ({rising.source}), {_per(rising, ceil(worth))}", load=worth)


def _panicking(case: _Case, calm: Scale) -> Scale:
    """What the short mean makes of it: from when it reaches the threshold until one window after it last did, replicas
    are added as it says, and none goes."""
    scaling, memory, burst = case.scaling, case.function.memory, case.burst
    until = memory.panic_until if case.now < memory.panic_until else 0.0
    if burst * 100 >= scaling.panic_threshold_percent * max(case.current, 1):
        until = case.now + scaling.window_seconds
    if not until:
        return calm
    until = min(until, case.now + scaling.window_seconds)
    stays = max(case.before, memory.panic_peak)
    count = max(ceil(burst), calm.desired, stays)
    memory = memory._replace(panic_until=until, panic_peak=stays)
    load = max(burst, calm.load)
    return Scale(count, Why.PANIC, _panic_message(case, count), load=load, memory=memory)


def _panic_message(case: _Case, count: int) -> str:
    means = case.found.panic
    if case.burst > means.panic:
        said = f"{case.requests} requests held while nothing serves, {_per(means, ceil(case.burst))}"
    else:
        seconds = f"mean of {panic_seconds(case.scaling):g} s, {means.source}"
        said = f"{_amount(means, means.load.panic)} ({seconds}), {_per(means, ceil(case.burst))}"
    stays = f"; {count} stay until {case.scaling.window_seconds} s after the peak" if count > ceil(case.burst) else ""
    return f"panic: {said}{stays}"


def _amount(means: Means, value: float) -> str:
    return f"{value:.1f} {means.unit}"


def _per(means: Means, count: int) -> str:
    return f"{means.per_replica:g} per replica: {replicas(count)}"


def _inputs(case: _Case) -> tuple[Input, ...]:
    demand, long, short = case.function.demand, case.found.stable, case.found.panic
    at = demand.load.sampled_at
    return (
        Input("stable", long.load.stable, long.load.sampled_at, long.source),
        Input("panic", short.load.panic, short.load.sampled_at, short.source),
        Input("waiting", float(demand.waiting), at, Source.GATEWAYS),
        Input("inFlight", float(demand.in_flight), at, Source.GATEWAYS),
    )


def _wake_at(case: _Case, scale: Scale, memory: Memory) -> float | None:
    times = limits.ends(scale, memory, case.scaling)
    if (since := case.idle_since) is not None:
        times.append(since + case.scaling.scale_to_zero_grace_period_seconds)
    if (scale.desired or case.before) and _moves(case, scale):
        times.append((floor(case.now / LOOK_SECONDS) + 1) * LOOK_SECONDS)
    return min([at for at in times if at > case.now], default=None)


def _moves(case: _Case, scale: Scale) -> bool:
    """Whether time alone may change the means, or what may be concluded from them."""
    if case.function.measured is not None or scale.limit is Limit.BLIND:
        return True
    load, level = case.function.demand.load, float(case.requests)
    if case.scaling.metric is ScalingMetric.TOKENS_PER_SECOND:
        level = 0.0
    return not (isclose(load.stable, level, abs_tol=1e-6) and isclose(load.panic, level, abs_tol=1e-6))
