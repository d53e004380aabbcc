"""The waiting room: bounded, first come first served per function, released by events and never by polling.

    enter ──▶ granted a pipeline ──▶ left            a seat may wait, be granted and give back several times:
      │            ▲      │                          a request continues elsewhere when its head dies
      └─▶ waiting ─┘◀─────┘ given back

Two budgets: ``coldStartTimeoutSeconds`` for the time in which nothing can serve, ``queueTimeoutSeconds`` for that in
which something serves and has no place. (A head takes requests before its weights are there: the rest of a cold start
is watched by ``relay``.) Whatever ends a request, leaving its seat gives back all that it counts.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

from prometheus_client import Gauge

from forebay_api.function import FunctionKey
from forebay_api.model import Epoch
from forebay_gateway import errors
from forebay_gateway.desk import FUNCTION_TOKENS, Desk, retry_after
from forebay_gateway.pick import Load, choose
from forebay_gateway.roster import Roster, Route
from forebay_gateway.seat import Regime, Seat

QUEUE_DEPTH = Gauge("forebay_queue_depth", "Requests held, nothing serves them yet.", ["function"])
IN_FLIGHT = Gauge("forebay_inflight", "Requests at a head.", ["function"])

FULL_SECONDS = 1.0
"""How often a head that said it is full gets an eighth more of our requests than it took: others' may have ended."""

FAILED_SECONDS = 2.0
"""How long a pipeline that failed is left alone while the operator goes on naming it."""

UNKNOWN_COLD_SECONDS = 10.0
"""Taken for the rest of a cold start that nobody has predicted."""


@dataclass(frozen=True, slots=True)
class Cap:
    """On our requests at a head that was full: ``most`` of them, until the ``timer`` lifts it."""

    most: int
    timer: asyncio.TimerHandle


class Room:
    """All that wait and all that are served, by function."""

    def __init__(self, roster: Roster, changed: Callable[[], None]) -> None:
        """``changed`` is called whenever the demand did."""
        self._roster = roster
        self._changed = changed
        self._desks: dict[FunctionKey, Desk] = {}
        self._in_flight: Counter[Epoch] = Counter()
        self._caps: dict[Epoch, Cap] = {}
        self._failed: dict[Epoch, asyncio.TimerHandle] = {}
        self._listed: frozenset[Epoch] = frozenset()
        self._numbers = count()
        roster.listen(self._roster_changed)

    def __repr__(self) -> str:
        return f"<Room {list(self._desks.values())} full {sorted(self._caps)} failed {sorted(self._failed)}>"

    @property
    def desks(self) -> Iterable[Desk]:
        return self._desks.values()

    def seat(self, key: FunctionKey, prompt_bytes: int) -> Seat:
        return Seat(self, self._desk(key), prompt_bytes, next(self._numbers))

    def route(self, key: FunctionKey) -> Route | None:
        return self._roster.functions.get(key)

    def regime(self, route: Route) -> Regime:
        alive = any(p.epoch not in self._failed for p in self._roster.pipelines(route.backbone))
        return Regime.BUSY if alive else Regime.COLD

    def is_cold(self, route: Route) -> bool:
        """Whether a request that arrives now has to wait for weights."""
        loading = route.progress is not None and route.progress.phase != "Serving"
        return loading or self.regime(route) is Regime.COLD

    def enter(self, seat: Seat, *, bounded: bool) -> None:
        """Queue up, in the order of arrival. Raises what `refusal` says, and QueueFull if it is ``bounded``."""
        desk = seat.desk
        route = self.route(desk.key)
        if error := refusal(desk.key, route):
            raise error
        assert route is not None
        insort(desk.queue, seat, key=lambda other: other.number)
        self._serve(desk)
        if seat.granted is None and bounded and desk.waiting > route.queue_max_requests:
            desk.queue.remove(seat)
            raise errors.QueueFull(
                f"{desk.waiting} requests wait for {desk.key}, which is its limit (queue.maxRequests)",
                retry_after=self._retry_after(desk, route, desk.waiting),
            )
        self._note(desk)

    def stop_waiting(self, seat: Seat) -> None:
        if seat in seat.desk.queue:
            seat.desk.queue.remove(seat)
            self._note(seat.desk)

    def give_back(self, seat: Seat) -> None:
        pipeline, seat.granted = seat.granted, None
        if pipeline is None:
            return
        for counts in (self._in_flight, seat.desk.served):
            counts[pipeline.epoch] -= 1
            if not counts[pipeline.epoch]:
                del counts[pipeline.epoch]
        self._serve_all()

    def leave(self, seat: Seat) -> None:
        self.stop_waiting(seat)
        if seat.granted is not None:
            seat.desk.note_service(time.monotonic() - seat.granted_at)
        self.give_back(seat)
        seat.desk.ended += 1
        seat.desk.last_ended = time.time()
        self._note(seat.desk)

    def shut_full(self, epoch: Epoch) -> None:
        """It took as many of ours as are there, but for the one that it refuses: one more when one of them ends."""
        self._cap(epoch, self._in_flight[epoch] - 1)

    def shut_failed(self, epoch: Epoch) -> None:
        """Leave it alone until the roster's pipelines change, or for a moment if they do not."""

        def reopen() -> None:
            self._failed.pop(epoch, None)
            self._serve_all()
            self._watch_budgets()

        if timer := self._failed.pop(epoch, None):
            timer.cancel()
        self._failed[epoch] = asyncio.get_running_loop().call_later(FAILED_SECONDS, reopen)
        self._watch_budgets()

    def late(self, desk: Desk, regime: Regime, *, others: int) -> errors.Refusal:
        """To whom a budget ran out. ``others``: how many wait besides."""
        route = self.route(desk.key)
        hint = self._retry_after(desk, route, others, cold=regime is Regime.COLD) if route else None
        if regime is Regime.COLD:
            budget = route.cold_start_timeout_seconds if route else 0
            return errors.ColdStartTimeout(
                f"{desk.key} was not ready within {budget} s (queue.coldStartTimeoutSeconds)", retry_after=hint
            )
        budget = route.queue_timeout_seconds if route else 0
        return errors.NoCapacity(
            f"{desk.key} had no place within {budget} s (queue.queueTimeoutSeconds)", retry_after=hint
        )

    def _desk(self, key: FunctionKey) -> Desk:
        return self._desks.setdefault(key, Desk(key))

    def _retry_after(self, desk: Desk, route: Route, waiting: int, *, cold: bool = False) -> int:
        places = route.container_concurrency * len(self._roster.pipelines(route.backbone))
        unknown = UNKNOWN_COLD_SECONDS if cold else None
        return retry_after(
            waiting=waiting,
            slots=places or desk.in_flight,
            service_seconds=desk.service_seconds,
            eta=(route.progress and route.progress.eta) or unknown,  # 0 = nobody has predicted it
        )

    def _serve(self, desk: Desk) -> None:
        """Grant pipelines to the first in line, as long as any is open."""
        route = self.route(desk.key)
        if route is None:
            return
        load = Load(self._in_flight, desk.served, {epoch: cap.most for epoch, cap in self._caps.items()})
        pipelines = self._roster.pipelines(route.backbone)
        while desk.queue:
            pipeline = choose(pipelines, load, route.container_concurrency, self._failed.keys())
            if pipeline is None:
                return
            self._in_flight[pipeline.epoch] += 1
            desk.served[pipeline.epoch] += 1
            desk.queue.popleft().grant(pipeline)

    def _serve_all(self) -> None:
        for desk in self._desks.values():
            self._serve(desk)
            self._note(desk)

    def _watch_budgets(self) -> None:
        """Something may serve now where nothing could, or the other way round."""
        for desk in self._desks.values():
            for seat in desk.queue:
                seat.watch_budget()

    def _cap(self, epoch: Epoch, most: int) -> None:
        def lift() -> None:
            if self._in_flight[epoch] < most:
                del self._caps[epoch]  # it bites no more
            else:
                self._cap(epoch, most + 1 + most // 8)
            self._serve_all()

        if before := self._caps.get(epoch):
            before.timer.cancel()
        self._caps[epoch] = Cap(most, asyncio.get_running_loop().call_later(FULL_SECONDS, lift))

    def _roster_changed(self) -> None:
        listed = self._roster.epochs
        if listed != self._listed:
            self._listed = listed
            for timer in self._failed.values():
                timer.cancel()
            self._failed.clear()
            for epoch in self._caps.keys() - listed:
                self._caps.pop(epoch).timer.cancel()
        self._refuse_and_forget()
        self._serve_all()
        self._watch_budgets()

    def _refuse_and_forget(self) -> None:
        """Those who wait for what cannot come are told; a desk of a deleted function goes once it is empty."""
        for key, desk in list(self._desks.items()):
            route = self.route(key)
            if error := refusal(key, route):
                for seat in desk.queue:
                    seat.refuse(error)
                desk.queue.clear()
            if route is None and not desk.in_flight:
                del self._desks[key]
                QUEUE_DEPTH.remove(str(key))
                IN_FLIGHT.remove(str(key))
                FUNCTION_TOKENS.remove(str(key))

    def _note(self, desk: Desk) -> None:
        """Tell metrics and operator, but only of a change: what the operator pushes must not make it push again."""
        if self._desks.get(desk.key) is not desk or not desk.changed():
            return
        QUEUE_DEPTH.labels(str(desk.key)).set(desk.waiting)
        IN_FLIGHT.labels(str(desk.key)).set(desk.in_flight)
        self._changed()


def refusal(key: FunctionKey, route: Route | None) -> errors.GatewayError | None:
    """Why requests of this function are refused at once, if they are."""
    if route is None:
        return errors.ModelNotFound(f"the function {key} does not exist", param="model")
    if not route.refusal_reason:
        return None
    message = f"{key} takes no requests: {route.refusal_reason}: {route.refusal_message}".removesuffix(": ")
    if route.refusal_reason in ("Suspended", "PinnedToZero"):
        return errors.Suspended(message, hopeless=True)
    return errors.NoCapacity(message, hopeless=True)
