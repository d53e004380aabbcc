"""Who decides how many replicas a function has: the shipped decision, and what it is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import ceil, floor, inf
from typing import ClassVar

from forebay_operator.decide.scale import desired
from forebay_operator.decide.seen import DemandSeen, FunctionSeen
from sim.function import EPOCH, Function

TICK = 2.0
WINDOW = 60.0


class Policy(ABC):
    """``tick``: seconds between two decisions of a function that is active (None: it decides when requests come and
    end). ``pipelined``: a function at zero starts on several devices, and computes as weights land. ``instant``:
    replicas are there at once, and devices are never short. ``packs``: requests go where others are, and replicas leave
    with the last. ``ahead``: it decides before the first request."""

    name: str
    tick: ClassVar[float | None] = None
    pipelined: ClassVar[bool] = False
    instant: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    ahead: ClassVar[bool] = False

    @abstractmethod
    def decide(self, function: Function, now: float) -> tuple[int, float]:
        """Replicas, and when to decide again though nothing happened (inf: never)."""

    @abstractmethod
    def loud(self, function: Function) -> bool:
        """Whether the requests that there are could make it want more than one replica."""


@dataclass
class Ours(Policy):
    """`decide.scale.desired`, with the memory it keeps and the time that one more replica takes."""

    name: str = "forebay"
    tick: ClassVar[float | None] = TICK
    pipelined: ClassVar[bool] = True
    thrift: bool = True  # False: decides at every tick, also where the answer cannot be another one

    def decide(self, function: Function, now: float) -> tuple[int, float]:
        moment = EPOCH + now
        held = function.held
        demand = DemandSeen(
            waiting=len(held),
            in_flight=function.requests - len(held),
            oldest_waiting=EPOCH + held[0].at if held else 0.0,
            last_ended=EPOCH + function.last_ended if function.used else 0.0,
            load=function.window.load(moment),
        )
        seen = FunctionSeen(function.resource, function.kind.model.backbone, demand, memory=function.memory)
        scale = desired(seen, moment, function.serving(), function.lead)
        function.memory = scale.memory
        calm = function.loud_until <= now and scale.desired == 1 and len(function.replicas) <= 1
        if self.thrift and calm and not scale.memory.panic_until:
            grace = function.resource.spec.scaling.scale_to_zero_grace_period_seconds
            return 1, inf if function.requests else function.last_ended + grace
        return scale.desired, inf if scale.wake_at is None else scale.wake_at - EPOCH

    def loud(self, function: Function) -> bool:
        # The trend at most doubles the load: below half of what one replica should have for a whole window, the answer
        # is one replica, or none when it was idle for the grace period. Asking again would cost and change nothing.
        scaling = function.resource.spec.scaling
        return not self.thrift or function.requests * 2 > scaling.aim(scaling.target)


@dataclass
class Knative(Policy):
    """The windows of Knative's autoscaler with its defaults, and nothing else: whole models on one device."""

    name: str = "knative"
    tick: ClassVar[float | None] = TICK
    grace: float = 30.0
    up: float = 1000.0
    down: float = 2.0
    threshold: float = 2.0

    def decide(self, function: Function, now: float) -> tuple[int, float]:
        scaling = function.resource.spec.scaling
        target = scaling.aim(scaling.target)
        if not function.live() and function.requests:
            return 1, inf  # the activator asks for the first one at once
        if not function.requests and now >= function.last_ended + WINDOW:
            inactive = function.last_ended + WINDOW + self.grace
            return (0, inf) if now >= inactive else (1, inactive)
        load = function.window.load(EPOCH + now)
        ready = max(function.serving(), 1)
        most, least = ceil(self.up * ready), floor(ready / self.down)
        over = ceil(load.panic / target) / ready >= self.threshold
        stable = max(least, min(ceil(load.stable / target), most))
        panic = max(least, min(ceil(load.panic / target), most))
        wanted = stable
        if over:
            if now >= function.panic_until:
                function.panic_pods = 0
            function.panic_until = now + WINDOW
        if now < function.panic_until:
            function.panic_pods = wanted = max(function.panic_pods, stable, panic, ready)
        idle = not function.requests and wanted <= 1
        return max(min(wanted, scaling.max_replicas), 1), function.last_ended + WINDOW + self.grace if idle else inf

    def loud(self, function: Function) -> bool:
        scaling = function.resource.spec.scaling
        return function.requests > scaling.aim(scaling.target)


@dataclass
class KeepAlive(Policy):
    """As platforms of functions do: one more whenever all are full, and each stays until it was idle for long."""

    seconds: float = 600.0
    name: str = "keep-alive"

    def decide(self, function: Function, now: float) -> tuple[int, float]:
        scaling = function.resource.spec.scaling
        needed = min(ceil(function.requests / scaling.target), scaling.max_replicas)
        live = function.live()
        idle = sorted(replica.idle_since for replica in live if replica.serves and not replica.outstanding)
        expired = sum(since + self.seconds <= now for since in idle)
        left = idle[expired:]
        return max(needed, len(live) - expired), left[0] + self.seconds if left else inf

    def loud(self, function: Function) -> bool:
        return function.requests > function.resource.spec.scaling.target * len(function.live())


@dataclass
class AlwaysOn(Policy):
    """As many as the busiest moment needs, always. ``counts``: by the number of the function."""

    counts: list[int] = field(default_factory=list)
    name: str = "always-on"
    instant: ClassVar[bool] = True
    ahead: ClassVar[bool] = True

    def decide(self, function: Function, now: float) -> tuple[int, float]:
        return self.counts[function.index], inf

    def loud(self, function: Function) -> bool:
        return False


@dataclass
class Oracle(Policy):
    """Replicas are there exactly while requests are, as if every arrival were known: what waste is measured by."""

    name: str = "oracle"
    instant: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    def decide(self, function: Function, now: float) -> tuple[int, float]:
        return ceil(function.requests / function.resource.spec.scaling.target), inf

    def loud(self, function: Function) -> bool:
        return function.requests > function.resource.spec.scaling.target * len(function.live())
