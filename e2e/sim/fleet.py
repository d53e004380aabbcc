"""The fleet: events in the order of their times. Idle functions cost nothing, and tokens are no events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

from forebay_api.function import Scaling
from sim.function import Function
from sim.hardware import Devices, Hardware
from sim.models import Kind
from sim.outcome import Outcome
from sim.policies import WINDOW, Policy
from sim.replica import Asked, Replica, Speed
from sim.room import Room
from sim.starts import Start, Starts
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
        self.starts = Starts(self.devices)
        self.room = Room(self)
        self.outcome = Outcome(policy.name, horizon)
        speeds: dict[str, Speed] = {}
        self.functions: list[Function] = []
        for index, load in enumerate(loads):
            kind = kinds(load.size)
            speed = speeds.setdefault(load.size, Speed(kind, batch))
            function = Function(index, load, kind, speed, scaling)
            function.lead = hardware.start + kind.model.link_bytes / hardware.link
            self.functions.append(function)
        self.now = 0.0
        self.peaks = [0] * len(self.functions)
        self._events: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self._number = 0
        self._outstanding = 0
        self._packs = policy.name == "oracle"
        self._since: dict[tuple[int, int], float] = {}
        self._counted = 0.0
        self._busy: dict[Replica, None] = {}
        self._ended: list[Asked] = []
        self._firsts: list[Asked] = []

    def run(self) -> Outcome:
        for function in self.functions:
            if self.policy.name == "always-on":
                self.check(function, None)
            self._await(function)
        events = self._events
        outcome = self.outcome
        while events and (events[0][0] < self.horizon or self._outstanding):
            self.now, _, handler, first, second = heappop(events)
            outcome.events += 1
            handler(first, second)
        return self._close()

    def _close(self) -> Outcome:
        outcome = self.outcome
        self.now = max(self.now, self.horizon)
        for (index, _), since in self._since.items():
            self.functions[index].device_seconds += max(self.horizon - since, 0.0)
        self._count()
        outcome.device_seconds = sum(function.device_seconds for function in self.functions)
        outcome.refused = sum(function.refused for function in self.functions)
        outcome.peaks, outcome.most = self.peaks, self.devices.most
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
        self._outstanding += 1
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
                self.check(function, None)
            return
        if self.policy.loud(function):
            function.loud_until = self.now + WINDOW
            if self.policy.tick is None:
                self.check(function, None)
            elif function.check_at > self.now + self.policy.tick:
                self._check_at(function, self.now + self.policy.tick)

    def _pick(self, function: Function) -> Replica | None:
        """The fewest stages, then the fewest requests; the oracle fills one after the other."""
        best, least = None, (inf, inf)
        for replica in function.replicas:
            if replica.draining or not (replica.serves or replica.formed):
                continue
            if self._packs:
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
        self._outstanding -= 1
        function.last_ended, function.used = self.now, True
        function.note(self.now)

    # -- computing --

    def pace(self, replica: Replica) -> None:
        """When something happens next at ``replica``, and at those that compute on the same processors."""
        if self.hardware.shared and (replica.busy and replica.serves) != (replica in self._busy):
            if replica in self._busy:
                del self._busy[replica]
            else:
                self._busy[replica] = None
            for other in self._busy:
                other.pass_time(self.now)
                other.slow = len(self._busy)
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
        replica.happen(self.now, self._ended, self._firsts)
        self._tell(replica)
        if replica.outstanding or replica in self._busy:
            self.pace(replica)

    def _tell(self, replica: Replica) -> None:
        """First tokens and ends that just were."""
        outcome = self.outcome
        for request in self._firsts:
            outcome.firsts.append(request.first - request.at)
        self._firsts.clear()
        if not self._ended:
            return
        function: Function = replica.owner  # type: ignore[assignment]
        for request in self._ended:
            replica.outstanding -= 1
            outcome.ended += 1
            self._gone(function)
            if replica.waited and request.early:
                replica.waited -= 1
        self._ended.clear()
        if replica.extra and not replica.waited:
            self._leave(replica)
        if not replica.outstanding:
            replica.idle_since = self.now
            if replica.draining:
                self.release(replica)
        self._ends(function)

    def _ends(self, function: Function) -> None:
        """After the end of a request: who decides at once, or when it is idle for long."""
        if function.requests:
            if self._packs:
                self.check(function, None)
            return
        if self.policy.tick is None:
            self._check_at(function, self.now)
        elif function.check_at == inf:
            grace = function.resource.spec.scaling.scale_to_zero_grace_period_seconds
            calm = len(function.live()) == 1 and function.loud_until <= self.now
            self._check_at(function, self.now + (grace if calm else self.policy.tick))
        self.room.again()

    # -- deciding --

    def _check_at(self, function: Function, when: float) -> None:
        function.check_at = when
        self.at(when, self.check, function, when)

    def check(self, function: Function, when: float | None) -> None:
        """One decision, and when the next one is due."""
        if when is not None and function.check_at != when:
            return
        function.check_at = inf
        self.outcome.checks += 1
        wanted, again = self.policy.decide(function, self.now)
        function.desired = wanted
        self.bring(function)
        live = len(function.live())
        if live > self.peaks[function.index]:
            self.peaks[function.index] = live
        tick = self.policy.tick
        if tick is not None and (function.loud_until > self.now or live > 1 or wanted > 1):
            again = min(again, self.now + tick)
        if again < inf and (again < self.horizon or self._outstanding):
            self._check_at(function, max(again, self.now + 0.001))

    def bring(self, function: Function) -> None:
        """Start or retire replicas until there are as many as are wanted, or devices are short."""
        live = function.live()
        # The other devices of a pipeline fill too while more are wanted: they serve when it becomes one device.
        filling = sum(len(replica.held) - 1 for replica in live if replica.formed)
        missing = function.desired - len(live)
        missing = max(missing - filling, 0) if missing > 0 else missing
        for replica in function.replicas:
            if missing > 0 and replica.draining and not self.room.short:
                replica.draining = False
                missing -= 1
        while missing > 0:
            if not self._start(function):
                self.room.wanted(function)
                return
            missing -= 1
        if missing < 0:
            surplus = sorted(live, key=lambda replica: (replica.serves, replica.outstanding, -replica.opens))
            for replica in surplus[:-missing]:
                self.retire(replica)

    def _start(self, function: Function) -> bool:
        if self.policy.instant:
            start: Start | None = self.starts.at_once(function)
        elif self.policy.pipelined and not function.replicas:
            start = self.starts.pipeline(function)
        else:
            start = self.starts.whole(function)
        if start is None:
            return False
        self.outcome.starts += 1
        replica = Replica(function, function.speed, start.devices, self.now + start.opens, start.hop, False)
        replica.formed, replica.began = start.formed, self.now
        function.replicas.append(replica)
        for device in start.devices:
            self.take(function, device)
        if start.opens <= 0:
            self.open(replica, None)
            return True
        if replica.formed:
            while function.held:
                replica.admit(function.held.popleft(), self.now)
            tokens = replica.first_group(FRONT_BUDGET)
            replica.opens = self.now + self.hardware.start + start.first_token(max(tokens, 1))
            self.at(self.now + start.fills, self.consolidate, replica)
        replica.pulling = list(start.devices)
        for device in start.devices:
            self.devices.begin_load(device)
        self.at(replica.opens, self.open, replica)
        return True

    def open(self, replica: Replica, _: None) -> None:
        """It serves: the first prompts of a pipeline are done with the last unit, others begin now."""
        function: Function = replica.owner  # type: ignore[assignment]
        if replica not in function.replicas:
            return
        for device in replica.pulling[1:] if replica.formed else replica.pulling:
            self.devices.end_load(device)
        replica.pulling = replica.pulling[:1] if replica.formed else []
        replica.serves, replica.last, replica.idle_since = True, self.now, self.now
        if replica.group:
            replica.prefilled(self.now, self._ended, self._firsts)
        while function.held:
            replica.admit(function.held.popleft(), self.now)
        if not replica.group:
            replica.next_group()
        self._tell(replica)
        if replica in function.replicas:
            self.pace(replica)
            if not function.requests:
                self._ends(function)

    def consolidate(self, replica: Replica, _: None) -> None:
        """One device holds all: it goes on alone, the others leave or serve too."""
        function: Function = replica.owner  # type: ignore[assignment]
        if replica not in function.replicas:
            return
        for device in replica.pulling:
            self.devices.end_load(device)
        replica.pulling = []
        others = replica.held[1:]
        replica.formed, replica.stages, replica.held = False, 1, replica.held[:1]
        wanted = function.desired - len(function.live())
        for device in others[: max(wanted, 0)]:
            more = Replica(function, function.speed, [device], self.now, 0.0, True)
            more.last = more.idle_since = more.began = self.now
            function.replicas.append(more)
        replica.extra, replica.waited = others[max(wanted, 0) :], replica.outstanding
        replica.pass_time(self.now)
        replica.pace()
        self.pace(replica)
        if not replica.waited:
            self._leave(replica)

    # -- devices --

    def retire(self, replica: Replica) -> None:
        replica.draining = True
        if not replica.outstanding:
            self.release(replica)

    def release(self, replica: Replica) -> None:
        function: Function = replica.owner  # type: ignore[assignment]
        function.replicas.remove(replica)
        replica.version += 1
        self._busy.pop(replica, None)
        for device in replica.pulling:
            self.devices.end_load(device)
        replica.pulling = []
        replica.extra += replica.held
        self._leave(replica)

    def _leave(self, replica: Replica) -> None:
        function: Function = replica.owner  # type: ignore[assignment]
        for device in replica.extra:
            since = self._since.pop((function.index, device))
            function.device_seconds += max(min(self.now, self.horizon) - min(since, self.horizon), 0.0)
            self._count()
            self.devices.give_back(device)
        replica.extra = []
        self.room.again()

    def take(self, function: Function, device: int) -> None:
        self._count()
        self._since[function.index, device] = self.now
        self.devices.take(device)

    def _count(self) -> None:
        """The integral of devices taken, up to now or the end."""
        now = min(self.now, self.horizon)
        if now > self._counted:
            self.outcome.integral += self.devices.taken * (now - self._counted)
            self._counted = now


FRONT_BUDGET = 4096
"""Prompt tokens that are computed as the weights land (`Limits.front_budget` of the engine)."""
