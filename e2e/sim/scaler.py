"""Replicas come and go: one decision at a time, and what follows from it until the devices are given back.

May not live here: requests, and what they compute.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sim.function import Function
from sim.links import Links
from sim.replica import Replica
from sim.starts import Start, Starts

if TYPE_CHECKING:
    from sim.fleet import Fleet

FRONT_BUDGET = 4096
"""Prompt tokens that are computed as the weights land (`Limits.front_budget` of the engine)."""


class Scaler:
    """``peaks``: the most replicas of each function at once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._starts = Starts(fleet.devices)
        self._links = Links()
        self.peaks = [0] * len(fleet.functions)

    def check_at(self, function: Function, when: float) -> None:
        fleet = self._fleet
        function.check_at = when
        fleet.at(when, self.check, function, when)

    def check(self, function: Function, when: float | None) -> None:
        """One decision, and when the next one is due."""
        fleet = self._fleet
        if when is not None and function.check_at != when:
            return
        function.check_at = inf
        fleet.outcome.checks += 1
        wanted, again = fleet.policy.decide(function, fleet.now)
        function.desired = wanted
        self.bring(function)
        live = len(function.live())
        if live > self.peaks[function.index]:
            self.peaks[function.index] = live
        tick = fleet.policy.tick
        if tick is not None and (function.loud_until > fleet.now or live > 1 or wanted > 1):
            again = min(again, fleet.now + tick)
        if again < inf and (again < fleet.horizon or fleet.outstanding):
            self.check_at(function, max(again, fleet.now + 0.001))

    def bring(self, function: Function) -> None:
        """Start or retire replicas until there are as many as are wanted, or devices are short."""
        fleet = self._fleet
        live = function.live()
        # The other devices of a pipeline fill too while more are wanted: they serve when it becomes one device.
        filling = sum(len(replica.held) - 1 for replica in live if replica.formed)
        missing = function.desired - len(live)
        missing = max(missing - filling, 0) if missing > 0 else missing
        for replica in function.replicas:
            if missing > 0 and replica.draining and not fleet.room.short:
                replica.draining = False
                missing -= 1
        while missing > 0:
            if not self._start(function):
                fleet.room.wanted(function)
                return
            missing -= 1
        if missing < 0:
            surplus = sorted(live, key=lambda replica: (replica.serves, replica.outstanding, -replica.opens))
            for replica in surplus[:-missing]:
                self.retire(replica)

    def _start(self, function: Function) -> bool:
        fleet = self._fleet
        if fleet.policy.instant:
            start: Start | None = self._starts.at_once(function)
        elif fleet.policy.pipelined and not function.replicas:
            start = self._starts.pipeline(function)
        else:
            start = self._starts.whole(function)
        if start is None:
            return False
        fleet.outcome.starts += 1
        replica = Replica(function, function.speed, start.devices, fleet.now + start.opens, start.hop, False)
        replica.formed, replica.began = start.formed, fleet.now
        function.replicas.append(replica)
        for device in start.devices:
            fleet.held.take(function, device, fleet.now)
        if start.opens <= 0:
            self.open(replica, None)
            return True
        waits, replica.fills = 0.0, fleet.now + start.fills
        if fleet.hardware.places > 1:
            rest = start.fills - start.opens if replica.formed else 0.0
            waits = self._links.begin(replica, fleet.now, start.opens - fleet.hardware.start, rest)
            replica.opens += waits
        if replica.formed:
            while function.held:
                replica.admit(function.held.popleft(), fleet.now)
            tokens = replica.first_group(FRONT_BUDGET)
            replica.opens = fleet.now + waits + fleet.hardware.start + start.first_token(max(tokens, 1))
            fleet.at(replica.fills, self.consolidate, replica)
        replica.pulling = list(start.devices)
        for device in start.devices:
            fleet.devices.begin_load(device)
        fleet.at(replica.opens, self.open, replica)
        return True

    def open(self, replica: Replica, _: None) -> None:
        """It serves: the first prompts of a pipeline are done with the last unit, others begin now."""
        fleet = self._fleet
        function: Function = replica.owner  # type: ignore[assignment]
        if replica not in function.replicas:
            return
        for device in replica.pulling[1:] if replica.formed else replica.pulling:
            fleet.devices.end_load(device)
        replica.pulling = replica.pulling[:1] if replica.formed else []
        replica.serves, replica.last, replica.idle_since = True, fleet.now, fleet.now
        if replica.group:
            replica.prefilled(fleet.now, fleet.ended, fleet.firsts)
        while function.held:
            replica.admit(function.held.popleft(), fleet.now)
        if not replica.group:
            replica.next_group()
        fleet.tell(replica)
        if replica in function.replicas:
            fleet.pace(replica)
            if not function.requests:
                fleet.ends(function)

    def consolidate(self, replica: Replica, _: None) -> None:
        """One device holds all: it goes on alone, the others leave or serve too."""
        fleet = self._fleet
        function: Function = replica.owner  # type: ignore[assignment]
        if replica not in function.replicas:
            return
        if fleet.now < replica.fills:  # others were more urgent meanwhile
            fleet.at(replica.fills, self.consolidate, replica)
            return
        for device in replica.pulling:
            fleet.devices.end_load(device)
        replica.pulling = []
        others = replica.held[1:]
        replica.formed, replica.stages, replica.held = False, 1, replica.held[:1]
        wanted = function.desired - len(function.live())
        for device in others[: max(wanted, 0)]:
            more = Replica(function, function.speed, [device], fleet.now, 0.0, True)
            more.last = more.idle_since = more.began = fleet.now
            function.replicas.append(more)
        replica.extra, replica.waited = others[max(wanted, 0) :], replica.outstanding
        replica.pass_time(fleet.now)
        replica.pace()
        fleet.pace(replica)
        if not replica.waited:
            self.leave(replica)

    def retire(self, replica: Replica) -> None:
        """It takes no new requests, and leaves when its own have ended."""
        replica.draining = True
        if not replica.outstanding:
            self.release(replica)

    def release(self, replica: Replica) -> None:
        fleet = self._fleet
        function: Function = replica.owner  # type: ignore[assignment]
        function.replicas.remove(replica)
        replica.fills = fleet.now  # nothing more is loaded for it
        replica.version += 1
        fleet.busy.pop(replica, None)
        for device in replica.pulling:
            fleet.devices.end_load(device)
        replica.pulling = []
        replica.extra += replica.held
        self.leave(replica)

    def leave(self, replica: Replica) -> None:
        fleet = self._fleet
        function: Function = replica.owner  # type: ignore[assignment]
        for device in replica.extra:
            fleet.held.give_back(function, device, fleet.now)
        replica.extra = []
        fleet.room.again()
