"""How Prometheus is asked: one query for all functions, or one that a function brought along; and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from math import ceil
from typing import TypeVar

from forebay_api.conditions import Reason
from forebay_api.function import Function, Scaling, ScalingMetric
from forebay_operator.decide import samples
from forebay_operator.decide.load import Load
from forebay_operator.decide.samples import FleetRound, Inputs, Trouble
from forebay_operator.history import History
from forebay_operator.prometheus import Prometheus

MISSED = 3
"""Intervals without a sample after which nothing is known."""

UNSEEN = 30.0
"""Taken for the scrape interval in seconds until two scrapes were seen."""

RATE_SECONDS = (15, 300)
"""Bounds of what token rates are taken over: it has to span some scrapes."""

FIRST_RATE_SECONDS = 60

STEPS = 300
"""So many samples at most are asked of the storage for the longest window, if that leaves no gaps."""

POINTS = 10_000
"""More in a series Prometheus refuses."""

T = TypeVar("T")


@dataclass(slots=True)
class FleetAsked:
    """Of all functions at once. ``every``: seconds from round to round; ``connected`` says how many gateways' streams
    are up; ``release``: whose gateways, empty in local mode."""

    every: float
    connected: Callable[[], int]
    clock: Callable[[], float]
    release: str = ""
    history: History[FleetRound] = field(default_factory=History)

    @property
    def bound(self) -> float:
        """Seconds after which a sample is too old."""
        return MISSED * max(self.every, self.history.interval or UNSEEN)

    @property
    def ageless(self) -> bool:
        return False

    async def ask(self, prometheus: Prometheus, longest: float) -> Trouble | None:
        """``longest``: seconds to remember. Raises Troubled."""
        rounds = samples.fleet_rounds(await prometheus.query(self._query))
        said = rounds[-1] if rounds else FleetRound(at=self.history.end)
        self.history.interval = said.interval or self.history.interval
        connected = self.connected()
        trouble = _set_back(self.history, said.at) or samples.fleet_trouble(said, connected, self.bound, self.release)
        if trouble:
            return trouble
        try:
            if self.history.lacks(said.at, longest, self.bound):
                since, step = _span(said.at, longest, self.every, self.bound)
                stored = samples.fleet_rounds(await prometheus.query_range(self._query, since, said.at, step))
                whole = (then for then in stored if not samples.fleet_trouble(then, connected, self.bound))
                self.history.fill(since, [(then.at, then) for then in whole])
        finally:  # with what was before it, or without if that cannot be had: else it would look like a beginning
            self.history.add(said.at, said, self.clock() - (said.at - said.oldest))
            self.history.forget(said.at - longest - self.bound)
        return None

    def load(self, function: Function) -> Load:
        """Of a history that is not empty."""
        scaling, name = function.spec.scaling, str(function.key)
        if scaling.metric is ScalingMetric.TOKENS_PER_SECOND:
            return _load(self.history, lambda said: said.tokens.get(name, 0.0), scaling, self.bound)
        return _load(self.history, lambda said: said.requests.get(name, 0.0), scaling, self.bound)

    @property
    def _query(self) -> str:
        low, high = RATE_SECONDS
        seen = ceil(MISSED * self.history.interval)
        return samples.fleet_query(min(max(seen, low), high) if seen else FIRST_RATE_SECONDS, self.release)


@dataclass(slots=True)
class OwnAsked:
    """Of the functions that brought ``query`` along. It is as old as the oldest of its ``inputs``; one without any, a
    number or a time of day, is of no age."""

    query: str
    every: float
    clock: Callable[[], float]
    history: History[float] = field(default_factory=History)
    inputs: Inputs = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = Inputs.of(self.query)

    @property
    def bound(self) -> float:
        """Seconds after which a sample is too old."""
        scraped = 0.0 if self.ageless else self.history.interval or UNSEEN
        return MISSED * max(self.every, scraped)

    @property
    def ageless(self) -> bool:
        return not self.inputs.selectors

    async def ask(self, prometheus: Prometheus, longest: float) -> Trouble | None:
        """``longest``: seconds to remember. Raises Troubled."""
        found = samples.own_value(await prometheus.query(self.query))
        if isinstance(found, Trouble):
            return found
        at, value = found
        age = await self._age(prometheus)
        if isinstance(age, Trouble):
            return age
        if trouble := _set_back(self.history, at):
            return trouble
        try:
            if self.history.lacks(at, longest, self.bound):
                await self._fill(prometheus, at, longest)
        finally:  # see above
            self.history.add(at, value, self.clock() - age)
            self.history.forget(at - longest - self.bound)
        return None

    def load(self, function: Function) -> Load:
        """Of a history that is not empty."""
        return _load(self.history, lambda value: value, function.spec.scaling, self.bound)

    async def _age(self, prometheus: Prometheus) -> float | Trouble:
        if self.ageless:
            return 0.0
        answer = await prometheus.query(self.inputs.query)
        for at, stamped in self.inputs.stamps(answer).items():
            self.history.stamp(stamped)
            return samples.age_trouble(at, stamped, self.bound) or at - stamped
        return self.inputs.missing(answer)

    async def _fill(self, prometheus: Prometheus, at: float, longest: float) -> None:
        since, step = _span(at, longest, self.every, self.bound)
        values = await prometheus.query_range(self.query, since, at, step)
        stamps = None
        if not self.ageless:
            stamps = self.inputs.stamps(await prometheus.query_range(self.inputs.query, since, at, step))
        self.history.fill(since, samples.own_points(values, stamps, self.bound))


def _set_back(history: History[T], at: float) -> Trouble | None:
    """Where Prometheus' clock was set back, what is remembered lies in the future: forget it."""
    if at >= history.end - samples.AHEAD:
        return None
    ahead = history.end - at
    history.clear()
    return Trouble(Reason.CLOCK_SKEW, f"Prometheus' clock was set back by {ahead:.0f} s")


def _span(at: float, longest: float, every: float, bound: float) -> tuple[float, float]:
    """From when on, and in which steps (seconds), to ask what was stored before ``at``."""
    span = longest + bound
    return at - span, max(every, min(span / STEPS, bound / 2), span / POINTS)


def _load(history: History[T], value: Callable[[T], float], scaling: Scaling, bound: float) -> Load:
    stable = float(scaling.window_seconds)
    since = history.end - stable - bound
    recent = [(at, value(said)) for at, said in takewhile(lambda sample: sample[0] > since, reversed(history.samples))]
    recent.reverse()
    return samples.mean_load(recent, stable, stable * scaling.panic_window_percent / 100, bound, history.measured_at)
