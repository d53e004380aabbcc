"""What happens when devices are short: who pays is what `decide.pressure` says; the others wait their turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from forebay_operator.decide.pressure import LOADS, RESIDENCE, Claim, Kind, Stake, payable
from sim.function import Function
from sim.replica import Replica

if TYPE_CHECKING:
    from sim.fleet import Fleet

AGAIN = 1.0
"""Seconds after which those that are short ask again, though nothing was given back: residences end by themselves."""


class Room:
    """``short``: functions that want more replicas than they could get, in the order of their need. The rules hold for
    every policy, so that policies differ in what they want only."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._retrying = False
        self._looking = False
        self.short: dict[int, Function] = {}
        self._paid: dict[int, float] = {}

    def wanted(self, function: Function) -> None:
        """No device is free for ``function``."""
        self.short.setdefault(function.index, function)
        self.again()

    def again(self) -> None:
        """Something was given back, or a function became idle: those that are short try again, after this event."""
        if self.short and not self._retrying:
            self._retrying = True
            self._fleet.at(self._fleet.now, self._retry, None)

    def _look(self, _first: None, _second: None) -> None:
        self._looking = False
        self.again()

    def _retry(self, _first: None, _second: None) -> None:
        fleet, waiting = self._fleet, dict(self.short)
        self.short.clear()
        for function in waiting.values():
            if function.desired > len(function.live()):
                if fleet.devices.emptiest() is None:
                    self._make(function)
                if fleet.devices.emptiest() is None:
                    self.short[function.index] = function
                else:
                    fleet.scaler.bring(function)
        self._retrying = False
        if self.short and not self._looking:
            self._looking = True
            fleet.at(fleet.now + AGAIN, self._look, None)

    def _make(self, function: Function) -> None:
        """One replica of whoever is first to pay leaves, at once if nothing runs on it."""
        now = self._fleet.now
        claim = Claim(
            backbone=str(function.index),
            waiting=bool(function.held) and not function.serving(),
            has=len(function.live()),
            rests=self._paid.get(function.index, -RESIDENCE) + RESIDENCE,
        )
        offered = {(stake.backbone, stake.worker): (payer, replica) for stake, payer, replica in self._stakes(now)}
        stakes = [stake for stake, _, _ in self._stakes(now)]
        for stake in payable(claim, stakes, now)[:1]:
            payer, replica = offered[stake.backbone, stake.worker]
            if stake.kind is not Kind.IDLE:
                self._paid[payer.index] = now
            payer.desired = max(payer.desired - 1, 0)
            self._fleet.scaler.retire(replica)

    def _stakes(self, now: float) -> Iterator[tuple[Stake, Function, Replica]]:
        """Of every replica. Those with the fewest requests go first within a function."""
        for function in self._fleet.functions:
            # Pipelines count once: their devices leave by themselves when one of them holds all.
            giving = sorted(function.live(), key=lambda replica: replica.outstanding)
            for place, replica in enumerate(giving):
                last = place == len(giving) - 1
                kind = (Kind.LAST if last else Kind.SURPLUS) if function.requests else Kind.IDLE
                yield (
                    Stake(
                        backbone=str(function.index),
                        worker=str(replica.held[0]),
                        kind=kind,
                        left=len(giving) - place - 1,
                        until=replica.began + max(RESIDENCE, LOADS * function.lead),
                        score=(now - function.last_ended) / function.lead,
                        place=place,
                        asked=bool(function.requests),
                    ),
                    function,
                    replica,
                )
