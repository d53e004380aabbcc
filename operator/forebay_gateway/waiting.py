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
from collections import Counter
from collections.abc import Callable, Iterable

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
"""How long a head that said it is full is left alone, unless one of our requests there ends or the roster changes."""

FAILED_SECONDS = 2.0
"""How long a pipeline that failed is left alone while the operator goes on naming it."""

UNKNOWN_COLD_SECONDS = 10.0
"""Taken for the rest of a cold start that nobody has predicted."""


class Room:
    """All that wait and all that are served, by function."""

    def __init__(self, roster: Roster, changed: Callable[[], None]) -> None:
        """``changed`` is called whenever the demand did."""
        self._roster = roster
        self._changed = changed
        self._desks: dict[FunctionKey, Desk] = {}
        self._in_flight: Counter[Epoch] = Counter()
        self._full: dict[Epoch, asyncio.TimerHandle] = {}
        self._failed: dict[Epoch, asyncio.TimerHandle] = {}
        self._listed: frozenset[Epoch] = frozenset()
        roster.listen(self._roster_changed)

    def __repr__(self) -> str:
        return f"<Room {list(self._desks.values())} full {sorted(self._full)} failed {sorted(self._failed)}>"

    @property
    def desks(self) -> Iterable[Desk]:
        return self._desks.values()

    def seat(self, key: FunctionKey, prompt_bytes: int) -> Seat:
        return Seat(self, self._desk(key), prompt_bytes)

    def route(self, key: FunctionKey) -> Route | None:
        return self._roster.functions.get(key)

    def regime(self, route: Route) -> Regime:
        alive = any(p.epoch not in self._failed for p in self._roster.pipelines(route.backbone))
        return Regime.BUSY if alive else Regime.COLD

    def is_cold(self, route: Route) -> bool:
        """Whether a request that arrives now has to wait for weights."""
        loading = route.progress is not None and route.progress.phase != "Serving"
        return loading or self.regime(route) is Regime.COLD

    def enter(self, seat: Seat, *, again: bool) -> None:
        """Queue up; at the front when it was served before. Raises QueueFull and what `refusal` says."""
        desk = seat.desk
        route = self.route(desk.key)
        if error := refusal(desk.key, route):
            raise error
        assert route is not None
        if again:
            desk.queue.appendleft(seat)
        else:
            desk.queue.append(seat)
        self._serve(desk)
        if seat.granted is None and not again and desk.waiting > route.queue_max_requests:
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
            self._reopen(self._full, seat.granted.epoch)
        self.give_back(seat)
        seat.desk.ended += 1
        seat.desk.last_ended = time.time()
        self._note(seat.desk)

    def shut_full(self, epoch: Epoch) -> None:
        self._shut(self._full, epoch, FULL_SECONDS)

    def shut_failed(self, epoch: Epoch) -> None:
        """Leave it alone until the roster's pipelines change, or for a moment if they do not."""
        self._shut(self._failed, epoch, FAILED_SECONDS)

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
        shut = self._full.keys() | self._failed.keys()
        while desk.queue:
            load = Load(all=self._in_flight, mine=desk.served)
            pipeline = choose(self._roster.pipelines(route.backbone), load, route.container_concurrency, shut)
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

    def _shut(self, shut: dict[Epoch, asyncio.TimerHandle], epoch: Epoch, seconds: float) -> None:
        def reopen() -> None:
            self._reopen(shut, epoch)
            self._serve_all()
            self._watch_budgets()

        self._reopen(shut, epoch)
        shut[epoch] = asyncio.get_running_loop().call_later(seconds, reopen)
        self._watch_budgets()

    def _reopen(self, shut: dict[Epoch, asyncio.TimerHandle], epoch: Epoch) -> None:
        if timer := shut.pop(epoch, None):
            timer.cancel()

    def _roster_changed(self) -> None:
        listed = self._roster.epochs
        if listed != self._listed:
            self._listed = listed
            for shut in (self._full, self._failed):
                for epoch in list(shut):
                    self._reopen(shut, epoch)
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
