"""Reads what Prometheus answers: how much is asked of each function, of when that is, and why it cannot be used.

All times are of Prometheus' own clock: how old a sample is does not depend on whether ours agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from forebay_api import names
from forebay_api.conditions import Reason
from forebay_operator.decide.load import Load
from forebay_operator.decide.selectors import chooses, selectors

AHEAD = 5.0
"""Seconds by which a sample may be newer than the moment that Prometheus answers for."""

CLOCK = "forebay_gateway_time_seconds"
"""Every gateway shows it, also one that nothing was ever asked of."""

MOST_INPUTS = 16
"""Of a query; of those that have more, the first ones tell its age."""

SHOWN = 200
"""Characters of a selector that are shown."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is nothing that can be used, with a sentence for people."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Series:
    """``points``: (time, value), ascending."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """``kind``: scalar, vector (one point in each series), matrix, or string."""

    kind: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class FleetRound:
    """What all gateways said, as of ``at``: requests in flight and held and tokens per second, by function as
    ``namespace/name``; one that is not there has none. ``gateways`` were scraped, the first of them at ``oldest``, each
    every ``interval`` seconds (0: not known yet)."""

    at: float
    requests: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)
    gateways: int = 0
    oldest: float = 0.0
    interval: float = 0.0


def fleet_query(rate_seconds: int, release: str) -> str:
    """One evaluation for all functions. Token rates are taken over ``rate_seconds``. Of the gateways of ``release``;
    empty: of those that name none."""
    ours = f'{{{names.RELEASE_LABEL}="{release}"}}'
    clock = f"{CLOCK}{ours}"
    spread = f"(max_over_time({clock}[5m]) - min_over_time({clock}[5m]))"
    parts = {
        "requests": f"sum by (function) (forebay_inflight{ours} + forebay_queue_depth{ours})",
        "tokens": f"sum by (function) (rate(forebay_function_tokens_total{ours}[{rate_seconds}s]))",
        "gateways": f"count({clock})",
        "oldest": f"min(timestamp({clock}))",
        "interval": f"max({spread} / (count_over_time({clock}[5m]) - 1))",
    }
    return " or ".join(f'label_replace({query}, "is", "{name}", "", "")' for name, query in parts.items())


def fleet_rounds(answer: Answer) -> tuple[FleetRound, ...]:
    """By time, ascending: one of a vector, several of a matrix."""
    said: dict[float, dict[str, dict[str, float]]] = {}
    for series in answer.series:
        for at, value in series.points:
            found = said.setdefault(at, {}).setdefault(series.labels.get("is", ""), {})
            found[series.labels.get("function", "")] = value
    return tuple(_fleet_round(at, said[at]) for at in sorted(said))


def _fleet_round(at: float, said: Mapping[str, Mapping[str, float]]) -> FleetRound:
    def number(name: str) -> float:
        value = said.get(name, {}).get("", 0.0)
        return value if isfinite(value) else 0.0

    return FleetRound(
        at=at,
        requests={function: value for function, value in said.get("requests", {}).items() if value},
        tokens={function: value for function, value in said.get("tokens", {}).items() if value},
        gateways=int(number("gateways")),
        oldest=number("oldest"),
        interval=number("interval"),
    )


def fleet_trouble(said: FleetRound, connected: int, bound: float, release: str = "") -> Trouble | None:
    """What keeps a round from being used. ``connected``: gateways whose streams are up; ``bound``: the age in seconds
    beyond which a sample says nothing; ``release``: whose gateways were asked for."""
    if not said.gateways:
        whose = f" of {names.RELEASE_LABEL} {release}" if release else ""
        return Trouble(Reason.NO_SAMPLES, f"Prometheus has no samples of any gateway{whose} ({CLOCK})")
    if trouble := age_trouble(said.at, said.oldest, bound):
        return trouble
    for function, value in (*said.requests.items(), *said.tokens.items()):
        if not _is_amount(value):
            return Trouble(Reason.NOT_A_NUMBER, f"Prometheus says {_shown(value)} for {function or 'no function'}")
    if said.gateways < connected:
        message = f"Prometheus scrapes {said.gateways} of {connected} gateways"
        return Trouble(Reason.PARTIAL_SAMPLES, message)
    return None


def age_trouble(at: float, stamped: float, bound: float) -> Trouble | None:
    """Whether a sample of ``stamped`` may be used for an answer of ``at``."""
    if stamped > at + AHEAD:
        return Trouble(Reason.CLOCK_SKEW, f"samples are more than {AHEAD:.0f} s ahead of Prometheus' own clock")
    if at - stamped > bound:
        return Trouble(Reason.STALE_SAMPLES, f"the newest samples are older than {bound:.0f} s")
    return None


@dataclass(frozen=True, slots=True)
class Inputs:
    """The series that a query is computed from, by their selectors. Where it ``chooses``, one of them is enough."""

    selectors: tuple[str, ...]
    chooses: bool

    @classmethod
    def of(cls, query: str) -> Inputs:
        return cls(selectors(query)[:MOST_INPUTS], chooses(query))

    @property
    def query(self) -> str:
        """When each of them was scraped last."""
        asked = (f"max(timestamp({selector}))" for selector in self.selectors)
        return " or ".join(f'label_replace({each}, "input", "{place}", "", "")' for place, each in enumerate(asked))

    def stamps(self, answer: Answer) -> Mapping[float, float]:
        """By the time that was asked for: when the input was scraped of which that is longest ago. Without the times at
        which inputs are missing."""
        found: dict[float, list[float]] = {}
        for series in answer.series:
            for at, stamped in series.points:
                found.setdefault(at, []).append(stamped)
        enough = 1 if self.chooses else len(self.selectors)
        return {at: min(stamps) for at, stamps in found.items() if len(stamps) >= enough}

    def missing(self, answer: Answer) -> Trouble:
        """What to say of an answer without a stamp. A query may give a number without samples: of the last minutes, or
        one that it names itself."""
        there = {series.labels.get("input", "") for series in answer.series}
        gone = next(text for place, text in enumerate(self.selectors) if str(place) not in there)
        shown = gone if len(gone) <= SHOWN else f"{gone[:SHOWN]}…"
        return Trouble(Reason.NO_SAMPLES, f"the query is computed from {shown}, of which there is no sample now")


def own_value(answer: Answer) -> tuple[float, float] | Trouble:
    """(time, value) of a function's own query."""
    if answer.kind not in ("scalar", "vector"):
        return Trouble(Reason.QUERY_INVALID, f"the query gives a {answer.kind}, expected one number")
    if not answer.series:
        return Trouble(Reason.NO_SAMPLES, "the query gives nothing")
    if len(answer.series) > 1:
        return Trouble(Reason.SEVERAL_SERIES, f"the query gives {len(answer.series)} series, expected one")
    at, value = answer.series[0].points[-1]
    if not _is_amount(value):
        return Trouble(Reason.NOT_A_NUMBER, f"the query gives {_shown(value)}, expected a number of 0 or more")
    return at, value


def own_points(answer: Answer, stamps: Mapping[float, float] | None, bound: float) -> tuple[tuple[float, float], ...]:
    """What a range of a function's own query holds that can be used. ``stamps``: of what it is computed from; None:
    from nothing."""
    if len(answer.series) != 1:
        return ()
    return tuple(
        (at, value)
        for at, value in answer.series[0].points
        if _is_amount(value) and (stamps is None or not age_trouble(at, stamps.get(at, 0.0), bound))
    )


def _is_amount(value: float) -> bool:
    return 0 <= value < float("inf")  # not of NaN either


def _shown(value: float) -> str:
    """The same for as long as the same is wrong with it: it goes into conditions."""
    return "a negative number" if value < 0 else f"{value}"


def mean_load(samples: Sequence[tuple[float, float]], stable: float, panic: float, gap: float, aged: float) -> Load:
    """Means over both windows (seconds) before the last of ``samples``, which are (time, value), ascending, at least
    one. Each stands for the time since the one before, unless that is longer ago than ``gap``: what is older is not
    known. ``aged``: unix seconds of when the last one was measured."""
    end, latest = samples[-1]
    began = end
    areas: list[tuple[float, float, float]] = []  # (from, to, value), descending
    for (before, _), (at, value) in zip(reversed(samples[:-1]), reversed(samples), strict=False):
        if at - before > gap or began <= end - stable:
            break
        areas.append((before, at, value))
        began = before
    return Load(
        stable=_mean(areas, end - stable, latest),
        panic=_mean(areas, end - panic, latest),
        known=min(stable, end - began),
        sampled_at=aged,
    )


def _mean(areas: Iterable[tuple[float, float, float]], since: float, latest: float) -> float:
    seconds = total = 0.0
    for before, at, value in areas:
        width = at - max(before, since)
        if width <= 0:
            break
        seconds += width
        total += width * value
    return total / seconds if seconds else latest
