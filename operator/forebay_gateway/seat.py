"""One generation's place in the waiting room, from its arrival to its end."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING

from prometheus_client import Histogram

from forebay_gateway.errors import GatewayError

if TYPE_CHECKING:
    from forebay_gateway.desk import Desk
    from forebay_gateway.pick import Pipeline
    from forebay_gateway.waiting import Room

QUEUE_WAIT = Histogram(
    "forebay_queue_wait_seconds",
    "Time held before a pipeline took the request.",
    buckets=(0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)


class Regime(Enum):
    """Why a request waits; each has a budget of its own."""

    COLD = "cold"
    BUSY = "busy"


class Seat:
    """A context manager; what it counts is given back at its end. ``number``: its place in the order of arrival;
    ``arrived`` in unix seconds."""

    def __init__(self, room: Room, desk: Desk, prompt_bytes: int, number: int) -> None:
        self.desk = desk
        self.prompt_bytes = prompt_bytes
        self.number = number
        self.arrived = time.time()
        self.granted: Pipeline | None = None
        self.granted_at = 0.0
        self._room = room
        self._taken = False
        self._wake: asyncio.Future[None] | None = None
        self._timeout: asyncio.Timeout | None = None
        self._spent = dict.fromkeys(Regime, 0.0)
        self._regime: Regime | None = None
        self._since = 0.0

    def __enter__(self) -> Seat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.leave(self)

    async def pipeline(self) -> Pipeline:
        """Wait for a pipeline that takes this request. Raises Refusal and ModelNotFound."""
        began = time.monotonic()
        wake = self._wake = asyncio.get_running_loop().create_future()
        try:
            self._room.enter(self, bounded=not self._taken)
            async with asyncio.timeout(None) as self._timeout:
                self.watch_budget()
                if self.granted is None:
                    await wake
        except TimeoutError:
            if self.granted is None:
                raise self._room.late(self.desk, self._regime or Regime.COLD, others=self.desk.waiting - 1) from None
        finally:
            self._stop_clock()
            self._timeout = self._wake = None
            wake.cancel()
            self._room.stop_waiting(self)
            QUEUE_WAIT.observe(time.monotonic() - began)
        assert self.granted is not None
        return self.granted

    def give_back(self, *, fruitful: bool, taken: bool = True) -> None:
        """The granted pipeline serves this request no longer. It waits afresh if it got tokens there, and has a place
        however many wait once a head has ``taken`` it."""
        self._taken |= taken
        if fruitful:
            self._spent = dict.fromkeys(Regime, 0.0)
        self._room.give_back(self)

    def grant(self, pipeline: Pipeline) -> None:
        self.granted, self.granted_at = pipeline, time.monotonic()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def refuse(self, error: GatewayError) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_exception(error)

    def watch_budget(self) -> None:
        """Count the time so far to the regime it was spent in, and set the alarm by what the present one leaves."""
        route = self._room.route(self.desk.key)
        if self._timeout is None or self._timeout.expired() or route is None:
            return
        self._stop_clock()
        now = asyncio.get_running_loop().time()
        self._regime, self._since = self._room.regime(route), now
        budget = route.cold_start_timeout_seconds if self._regime is Regime.COLD else route.queue_timeout_seconds
        self._timeout.reschedule(now + budget - self._spent[self._regime])

    def _stop_clock(self) -> None:
        if self._regime is not None:
            self._spent[self._regime] += asyncio.get_running_loop().time() - self._since
            self._regime = None
