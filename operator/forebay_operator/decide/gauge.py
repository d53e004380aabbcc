"""What is asked of one function in replicas' worth, whoever measured it, and whether low numbers may be believed."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from forebay_api.function import Scaling, ScalingMetric
from forebay_operator.decide.load import Load, Measured, Source
from forebay_operator.decide.seen import FunctionSeen

RISING = 1.25
"""What the short mean has above this many times the long one is a trend: noise of a fifth is none."""

FURTHEST = 2.0
"""What a trend leads to is at most this many times the short mean."""

DIGITS = 9
"""Of a number of replicas: what comes after them is the arithmetic's, not the load's."""

MOST = 2.0**31
"""Replicas' worth that anything counts as at most: as many as may be asked for. A query of one's own gives any number,
and not all can be counted with."""


@dataclass(slots=True)  # not frozen: see `decision`
class Means:
    """The means that one source gives, and what one replica should have of them; ``stable`` and ``panic`` are what they
    are worth in replicas. ``unit`` is a word for people."""

    load: Load
    source: Source
    per_replica: float
    unit: str
    stable: float
    panic: float

    @classmethod
    def of(cls, load: Load, source: Source, per_replica: float, unit: str) -> Means:
        return cls(load, source, per_replica, unit, _worth(load.stable, per_replica), _worth(load.panic, per_replica))

    def in_time(self, scaling: Scaling, lead: float) -> float:
        """Replicas' worth after ``lead`` seconds (of which one window counts), if the load goes on rising as it does; 0
        when it does not rise.

        A mean is that of the middle of its window, so the two of them give a slope. Of what rises, that counts which is
        more than noise: where a trend begins it changes nothing."""
        rise = self.panic - RISING * self.stable
        if lead <= 0 or rise <= 0:
            return 0.0
        apart = (min(self.load.known, float(scaling.window_seconds)) - panic_seconds(scaling)) / 2
        if apart <= 0:
            return 0.0
        ahead = apart + min(lead, float(scaling.window_seconds))
        return round(min(self.stable + rise / apart * ahead, FURTHEST * self.panic), DIGITS)


def _worth(amount: float, per_replica: float) -> float:
    return 0.0 if amount <= 0 else round(min(amount / per_replica, MOST), DIGITS)


@dataclass(slots=True)  # not frozen: see `decision`
class Gauge:
    """``stable`` and ``panic``: the means that count, ``rising``: all whose trend does. ``each``: requests that one
    replica should have, 0 where something else counts. ``blind``: why nothing may be concluded from low numbers, empty
    when it may. ``filling``: why the stable mean is not one yet."""

    stable: Means
    panic: Means
    rising: tuple[Means, ...]
    each: float
    blind: str = ""
    filling: str = ""


def gauge(function: FunctionSeen) -> Gauge:
    """Prometheus, while it can be believed; what gateways count may raise the short mean, if both count the same."""
    scaling, demand, measured = function.function.spec.scaling, function.demand, function.measured
    doubt = "" if measured is None else _doubt(measured)
    counted = _counted(scaling, demand.load)
    own = False
    if measured is None or measured.load is None or doubt:
        stable = panic = counted
        rising: tuple[Means, ...] = (counted,)
    else:
        own = scaling.prometheus is not None
        stable = _asked(scaling, measured.load, counted, ageless=measured.ageless)
        rising = (stable,) if own else (stable, counted)
        panic = stable if own or stable.panic >= counted.panic else counted
    each = counted.per_replica if scaling.metric is ScalingMetric.CONCURRENCY and not own else 0.0
    blind = "a gateway is missing" if demand.blind else doubt
    return Gauge(stable, panic, rising, each, blind, "" if blind else _filling(scaling, stable.load))


def rises(function: FunctionSeen) -> bool:
    """Whether a short mean is above its long one: nothing else may have a trend, see `Means.in_time`."""
    counted, measured = function.demand.load, function.measured
    asked = counted if measured is None or measured.load is None else measured.load
    return counted.panic > counted.stable or asked.panic > asked.stable


def panic_seconds(scaling: Scaling) -> float:
    """Length of the panic window."""
    return scaling.window_seconds * scaling.panic_window_percent / 100


def _counted(scaling: Scaling, load: Load) -> Means:
    unit = "requests" if scaling.metric is ScalingMetric.CONCURRENCY else "tokens/s"
    return Means.of(load, Source.GATEWAYS, scaling.aim(scaling.target), unit)


def _asked(scaling: Scaling, load: Load, counted: Means, *, ageless: bool) -> Means:
    if scaling.prometheus is None:
        return Means.of(load, Source.PROMETHEUS, counted.per_replica, counted.unit)
    per_replica = scaling.aim(scaling.prometheus.target)
    unit = "by its own query, whose age nothing tells" if ageless else "by its own query"
    return Means.of(load, Source.PROMETHEUS, per_replica, unit)


def _doubt(measured: Measured) -> str:
    """Why what Prometheus says cannot be counted with, empty where it can."""
    if measured.trouble is not None:
        return measured.trouble[1]
    if measured.load is None:
        return "Prometheus has not answered yet"
    numbers = isfinite(measured.load.stable) and isfinite(measured.load.panic)
    return "" if numbers else "Prometheus gave no numbers"


def _filling(scaling: Scaling, load: Load) -> str:
    if load.known >= scaling.window_seconds:
        return ""
    return f"only {load.known:.0f} s of the last {scaling.window_seconds} s are known"
