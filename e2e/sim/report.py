"""Runs of several policies over one trace, as a table, and what it says about ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import process_time

from forebay_api.function import Scaling
from sim.fleet import Fleet
from sim.hardware import Hardware
from sim.models import sized
from sim.outcome import Outcome
from sim.policies import AlwaysOn, KeepAlive, Knative, Oracle, Ours, Policy
from sim.traces import Load

POLICIES = ("forebay", "knative", "keep-alive", "always-on")
TITLES = [
    "policy",
    "cold requests",
    "first token p50 s",
    "p99 s",
    "device-hours",
    "× oracle",
    "most devices",
    "refused",
]
EQUAL = 0.05
"""Two policies are taken as equal in a number when they differ by no more than this share."""


@dataclass
class Case:
    """One trace on one fleet."""

    name: str
    hardware: Hardware
    loads: Sequence[Load]
    horizon: float
    scaling: Scaling

    def run(self, policy: Policy, **scaling: object) -> Outcome:
        given = replace(self.scaling, **scaling)  # type: ignore[arg-type]
        return Fleet(self.hardware, self.loads, policy, self.horizon, sized, given).run()


@dataclass
class Compared:
    case: Case
    oracle: Outcome
    outcomes: list[Outcome]
    seconds: float  # of processor time, for all of them

    def rows(self) -> list[list[str]]:
        return [self._row(outcome) for outcome in self.outcomes]

    def _row(self, outcome: Outcome) -> list[str]:
        waste = outcome.device_seconds / self.oracle.device_seconds if self.oracle.device_seconds else 0.0
        return [
            outcome.policy,
            f"{100 * outcome.cold_share:.2f} %",
            f"{outcome.quantile(0.5):.3f}",
            f"{outcome.quantile(0.99):.3f}",
            f"{outcome.device_seconds / 3600:.2f}",
            f"{waste:.2f}",
            str(outcome.most),
            str(outcome.refused),
        ]

    def verdicts(self) -> list[str]:
        """For each of the others, whether one of ours needs fewer devices at equal p99, or has a better p99 at equal
        device-seconds."""
        ours = [outcome for outcome in self.outcomes if outcome.policy.startswith("forebay")]
        others = [outcome for outcome in self.outcomes if not outcome.policy.startswith("forebay")]
        return [verdict(ours, other) for other in others] if ours else []


def verdict(ours: Sequence[Outcome], other: Outcome) -> str:
    """One sentence about ``other``."""
    for mine in ours:
        devices = mine.device_seconds / other.device_seconds if other.device_seconds else 1.0
        wait = mine.quantile(0.99) / other.quantile(0.99) if other.quantile(0.99) else 1.0
        if devices <= 1 + EQUAL and wait <= 1 + EQUAL and min(devices, wait) < 1 - EQUAL:
            return f"{mine.policy} beats {other.policy}: {devices:.2f} × its device-seconds, {wait:.2f} × its p99"
    mine = ours[0]
    devices = mine.device_seconds / other.device_seconds if other.device_seconds else 1.0
    wait = mine.quantile(0.99) / other.quantile(0.99) if other.quantile(0.99) else 1.0
    return f"{mine.policy} does NOT beat {other.policy}: {devices:.2f} × its device-seconds, {wait:.2f} × its p99"


FIELDS = {
    "grace": "scale_to_zero_grace_period_seconds",
    "target": "target",
    "utilization": "target_utilization_percent",
    "window": "window_seconds",
    "delay": "scale_down_delay_seconds",
    "min": "min_replicas",
}


def variant(words: str) -> dict[str, float]:
    """The fields of `Scaling` that ``words`` ("grace=120,target=8") name. Raises ValueError."""
    found: dict[str, float] = {}
    for word in words.split(","):
        name, _, value = word.partition("=")
        if name not in FIELDS or not value.isdigit():
            raise ValueError(f"--sweep {words!r}: {word!r} is not one of {', '.join(FIELDS)} with =number")
        found[FIELDS[name]] = int(value)
    return found


def compare(
    case: Case, names: Sequence[str], variants: Sequence[str] = (), tell: Callable[[str], None] = lambda words: None
) -> Compared:
    """Every policy of ``names`` on ``case``; ours again with each of ``variants``. ``tell`` hears of each run when it
    is done. Raises ValueError for a variant that cannot be read."""

    def run(policy: Policy, **scaling: object) -> Outcome:
        begun = process_time()
        outcome = case.run(policy, **scaling)
        seconds = process_time() - begun
        tell(f"{case.name}: {policy.name}, {outcome.asked} requests, {outcome.events} events, {seconds:.1f} s")
        return outcome

    sweep = {words: variant(words) for words in variants}
    began = process_time()
    oracle = run(Oracle())
    outcomes = []
    policies: dict[str, Policy] = {
        "forebay": Ours(),
        "knative": Knative(),
        "keep-alive": KeepAlive(),
        "always-on": AlwaysOn([max(peak, 1) for peak in oracle.peaks]),
    }
    for name in names:
        outcomes.append(run(policies[name]))
        if name == "forebay":
            outcomes += [run(Ours(f"forebay {words}"), **fields) for words, fields in sweep.items()]
    return Compared(case, oracle, outcomes, process_time() - began)
