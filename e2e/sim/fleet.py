"""The fleet: events in the order of their times. Idle functions cost nothing, and tokens are no events."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

from forebay_api.function import Scaling
from sim.function import Function
from sim.hardware import Devices, Hardware
from sim.held import Held
from sim.models import Kind
from sim.outcome import Outcome
from sim.policies import WINDOW, Policy
from sim.replica import Asked, Replica, Speed
from sim.room import Room
from sim.scaler import Scaler
from sim.traces import Load

PATIENCE = 300.0
"""Seconds that a request is held at most (`coldStartTimeoutSeconds`)."""
BATCH = 64
"""Requests that a replica decodes together at most."""


class Fleet:
    """One run of ``loads`` for ``horizon`` seconds under ``policy``. What came before the end is served to its end."""

    def __init__(
        self,
        hardware: Hardware,
        loads: Sequence[Load],
        policy: Policy,
        horizon: float,
        kinds: Callable[[str], Kind],
        scaling: Scaling,
        batch: int = BATCH,
    ) -> None:
        self.hardware = hardware
        self.policy = policy
        self.horizon = horizon
        self.devices = Devices(hardware)
        self.held = Held(self.devices, horizon)
        self.room = Room(self)
        self.outcome = Outcome(policy.name, horizon)
        speeds: dict[str, Speed] = {}
        self.functions: list[Function] = []
        for index, load in enumerate(loads):
            kind = kinds(load.size)
            speed = speeds.setdefault(load.size, Speed(kind, batch, hardware.staged))
            function = Function(index, load, kind, speed, scaling)
            function.lead = hardware.start + kind.model.link_bytes / hardware.link
            self.functions.append(function)
        self.now = 0.0
        self.scaler = Scaler(self)
        self._events: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self._number = 0
        self.outstanding = 0
        self.busy: dict[Replica, None] = {}
        self.ended: list[Asked] = []
        self.firsts: list[Asked] = []

    def run(self) -> Outcome:
        for function in self.functions:
            if self.policy.ahead:
                self.scaler.check(function, None)
            self._await(function)
        # Nothing of a run is a circle that has to be looked for, and looking takes a fifth of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._go()
        finally:
            if collecting:
                gc.enable()
        return self._close()

    def _go(self) -> None:
        events, outcome = self._events, self.outcome
        while events and (events[0][0] < self.horizon or self.outstanding):
            self.now, _, handler, first, second = heappop(events)
            outcome.events += 1
            handler(first, second)

    def _close(self) -> Outcome:
        outcome = self.outcome
        self.held.close(self.now)
        outcome.device_seconds = sum(function.device_seconds for function in self.functions)
        outcome.refused = sum(function.refused for function in self.functions)
        outcome.integral = self.held.integral
        outcome.peaks, outcome.most = self.scaler.peaks, self.devices.most
        return outcome

    def at(self, when: float, handler: Callable[..., None], first: Any, second: Any = None) -> None:
        self._number += 1
        heappush(self._events, (when, self._number, handler, first, second))

    # -- requests --

    def _await(self, function: Function) -> None:
        asked = next(function.source, None)
        if asked is not None and asked[0] < self.horizon:
            self.at(asked[0], self.arrive, function, asked)

    def arrive(self, function: Function, asked: tuple[float, int, int]) -> None:
        self._await(function)
        cold = not self.policy.instant and not any(
            replica.serves and not replica.draining for replica in function.replicas
        )
        request = Asked(self.now, asked[1], asked[2], cold)
        function.asked += 1
        self.outcome.asked += 1
        self.outcome.cold += cold
        self.outstanding += 1
        function.requests += 1
        function.note(self.now)
        replica = self._pick(function)
        if replica is None:
            if not function.held:
                self.at(self.now + PATIENCE, self.give_up, function)
            function.held.append(request)
        else:
            self.admit(replica, request)
        self._consider(function)

    def _consider(self, function: Function) -> None:
        """Whether this arrival asks for a decision, now or at the next tick."""
        if not any(not replica.draining for replica in function.replicas):
            # Nothing is on its way for it; who is short already waits for devices.
            if function.index not in self.room.short:
                self.scaler.check(function, None)
            return
        if self.policy.loud(function):
            function.loud_until = self.now + WINDOW
            if self.policy.tick is None:
                self.scaler.check(function, None)
            elif function.check_at > self.now + self.policy.tick:
                self.scaler.check_at(function, self.now + self.policy.tick)

    def _pick(self, function: Function) -> Replica | None:
        """The fewest stages, then the fewest requests; the oracle fills one after the other."""
        best, least = None, (inf, inf)
        for replica in function.replicas:
            if replica.draining or not (replica.serves or replica.formed):
                continue
            if self.policy.packs:
                full = replica.outstanding >= function.resource.spec.scaling.target
                rank = (float(full), -float(replica.outstanding))
            else:
                rank = (float(replica.stages), float(replica.outstanding))
            if rank < least:
                best, least = replica, rank
        return best

    def admit(self, replica: Replica, request: Asked) -> None:
        replica.admit(request, self.now)
        if replica.serves:
            self.pace(replica)

    def give_up(self, function: Function, _: None) -> None:
        """Whoever was held for too long goes; the next look is when the next one would."""
        while function.held and function.held[0].at + PATIENCE <= self.now + 1e-9:
            request = function.held.popleft()
            request.ended = self.now
            function.refused += 1
            self._gone(function)
        if function.held:
            self.at(function.held[0].at + PATIENCE, self.give_up, function)

    def _gone(self, function: Function) -> None:
        function.requests -= 1
        self.outstanding -= 1
        function.last_ended, function.used = self.now, True
        function.note(self.now)

    # -- computing --

    def pace(self, replica: Replica) -> None:
        """When something happens next at ``replica``, and at those that compute on the same processors."""
        if self.hardware.shared and (replica.busy and replica.serves) != (replica in self.busy):
            if replica in self.busy:
                del self.busy[replica]
            else:
                self.busy[replica] = None
            for other in self.busy:
                other.pass_time(self.now)
                other.slow = len(self.busy)
                other.pace()
                self._due(other)
        self._due(replica)

    def _due(self, replica: Replica) -> None:
        replica.version += 1
        due = replica.due()
        if due < inf:
            self.at(max(due, self.now), self.compute, replica, replica.version)

    def compute(self, replica: Replica, version: int) -> None:
        if version != replica.version:
            return
        replica.happen(self.now, self.ended, self.firsts)
        self.tell(replica)
        if replica.outstanding or replica in self.busy:
            self.pace(replica)

    def tell(self, replica: Replica) -> None:
        """First tokens and ends that just were."""
        outcome = self.outcome
        for request in self.firsts:
            outcome.firsts.append(request.first - request.at)
        self.firsts.clear()
        if not self.ended:
            return
        function: Function = replica.owner  # type: ignore[assignment]
        for request in self.ended:
            replica.outstanding -= 1
            outcome.ended += 1
            self._gone(function)
            if replica.waited and request.early:
                replica.waited -= 1
        self.ended.clear()
        if replica.extra and not replica.waited:
            self.scaler.leave(replica)
        if not replica.outstanding:
            replica.idle_since = self.now
            if replica.draining:
                self.scaler.release(replica)
        self.ends(function)

    def ends(self, function: Function) -> None:
        """After the end of a request: who decides at once, or when it is idle for long."""
        if function.requests:
            if self.policy.packs:
                self.scaler.check(function, None)
            return
        if self.policy.tick is None:
            self.scaler.check_at(function, self.now)
        elif function.check_at == inf:
            grace = function.resource.spec.scaling.scale_to_zero_grace_period_seconds
            calm = len(function.live()) == 1 and function.loud_until <= self.now
            self.scaler.check_at(function, self.now + (grace if calm else self.policy.tick))
        self.room.again()
