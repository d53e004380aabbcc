"""One function of the fleet: what is asked of it, and what it has."""

from __future__ import annotations

from collections import deque
from math import inf

from forebay_api.function import Function as Resource
from forebay_api.function import FunctionSpec, ModelSpec, Scaling
from forebay_operator.decide.load import Memory
from forebay_operator.window import Window
from sim.models import Kind
from sim.replica import Asked, Replica, Speed
from sim.traces import Load

EPOCH = 1_000_000.0
"""Unix seconds at which a run begins: decisions take 0 for never."""


class Function:
    """``requests`` counts those held and in flight. Times in seconds since the beginning."""

    __slots__ = (
        "asked",
        "check_at",
        "desired",
        "device_seconds",
        "held",
        "index",
        "kind",
        "last_ended",
        "lead",
        "load",
        "loud_until",
        "memory",
        "panic_pods",
        "panic_until",
        "refused",
        "replicas",
        "requests",
        "resource",
        "source",
        "speed",
        "used",
        "window",
    )

    def __init__(self, index: int, load: Load, kind: Kind, speed: Speed, scaling: Scaling) -> None:
        self.index = index
        self.load = load
        self.source = load.requests()
        self.kind = kind
        self.speed = speed
        spec = FunctionSpec(ModelSpec(kind.model.uri), scaling=scaling)
        self.resource = Resource("default", load.name, load.name, 1, EPOCH, spec)
        self.window = Window(EPOCH, scaling)
        self.memory = Memory()
        self.held: deque[Asked] = deque()
        self.replicas: list[Replica] = []
        self.requests = 0
        self.asked = 0
        self.refused = 0
        self.last_ended = -inf
        self.desired = 0
        self.lead = 0.0  # seconds until one more replica would serve
        self.check_at = inf
        self.loud_until = -inf
        self.device_seconds = 0.0
        self.panic_until = -inf
        self.panic_pods = 0
        self.used = False

    def note(self, now: float) -> None:
        """Requests changed."""
        self.window.record(EPOCH + now, float(self.requests))

    def live(self) -> list[Replica]:
        """Replicas that serve or load, those of a pipeline that will stay counted by its claims apart."""
        return [replica for replica in self.replicas if not replica.draining]

    def serving(self) -> int:
        """How many take requests now."""
        return sum((replica.serves or replica.formed) and not replica.draining for replica in self.replicas)
