"""Functions with measured loads, for tests of scaling; and a function that is decided on over and over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from deciding.values import function
from forebay_api.function import OwnQuery, Scaling
from forebay_operator.decide.load import Load, Measured, Memory
from forebay_operator.decide.scale import Scale, desired
from forebay_operator.decide.seen import DemandSeen, FunctionSeen
from forebay_operator.window import Window

NOW = 10_000.0
TEN = Scaling(target=10.0, target_utilization_percent=100, max_replicas=100)
"""Ten requests are one replica."""

OWN = replace(TEN, prometheus=OwnQuery("sum(mine)", 5.0))


def load(stable: float, panic: float | None = None, known: float = 60.0) -> Load:
    return Load(stable, stable if panic is None else panic, known, NOW)


def asked(
    requests: int,
    counted: Load | None = None,
    *,
    measured: Measured | None = None,
    scaling: Scaling = TEN,
    memory: Memory | None = None,
    blind: bool = False,
    ended: float = 0.0,
) -> FunctionSeen:
    """``counted``: what gateways counted, by default that ``requests`` were in flight all the time."""
    counted = load(float(requests)) if counted is None else counted
    demand = DemandSeen(in_flight=requests, load=counted, blind=blind, last_ended=ended)
    return replace(function(demand=demand, scaling=scaling), measured=measured, memory=memory or Memory())


@dataclass
class Course:
    """A function decided on again and again, with what a pass leaves to the next; ``serving`` replicas follow what is
    decided after ``loading`` seconds."""

    scaling: Scaling = TEN
    loading: float = 0.0
    lead: float = 0.0
    step: float = 1.0
    now: float = NOW
    serving: int = 0
    window: Window = field(init=False)
    scales: list[Scale] = field(default_factory=list)
    coming: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window = Window(self.now, self.scaling)

    def run(self, seconds: float, level: Callable[[float], float]) -> list[int]:
        """``level``: requests in flight, by seconds since now. Gives the numbers decided on."""
        begun, before = self.now, len(self.scales)
        while self.now < begun + seconds:
            self.window.record(self.now, level(self.now - begun))
            self.decide(level(self.now - begun))
            self.now += self.step
        return [scale.desired for scale in self.scales[before:]]

    def decide(self, requests: float) -> Scale:
        for at, count in [entry for entry in self.coming if entry[0] <= self.now]:
            self.coming.remove((at, count))
            self.serving = count
        memory = self.scales[-1].memory if self.scales else Memory()
        demand = DemandSeen(in_flight=round(requests), load=self.window.load(self.now))
        seen = replace(function(demand=demand, scaling=self.scaling), memory=memory)
        scale = desired(seen, self.now, self.serving, self.lead)
        if scale.desired < self.serving:
            self.serving, self.coming = scale.desired, []
        elif not self.scales or scale.desired != self.scales[-1].desired:
            self.coming.append((self.now + self.loading, scale.desired))
        self.scales.append(scale)
        return scale
