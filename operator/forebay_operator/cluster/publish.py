"""Writes the status of functions: one write for what a pass changed, not too often, and again until it is there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge

from forebay_api.function import FunctionKey
from forebay_operator.cluster import body, past
from forebay_operator.cluster.api import Api, ApiError, Conflict, NotFound, Unreachable
from forebay_operator.cluster.body import Wanted
from forebay_operator.cluster.seen import Body
from forebay_operator.cluster.shelf import version
from forebay_operator.cluster.source import Invalid
from forebay_operator.control import Outcome

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Writes under way."""

LONGEST = 30.0
"""Seconds between attempts at most, where a write is refused or another writer undoes it."""

AWAY = 4.0
"""Seconds between attempts at most, while the API server cannot be reached."""

QUIET_START = 1.5
"""Seconds from the beginning of a term in which nothing is written: workers are only coming back."""

SETTLED = 11.0
"""Seconds from the beginning of a term after which nothing known means nothing known: gateways are missed for 10."""

WRITES = Counter("forebay_status_writes_total", "Writes of a function's status, by how they ended.", ["how"])
for _how in ("written", "gone", "refused", "unreachable"):
    WRITES.labels(_how)  # from the start: a rate sees no rise where there was nothing before
WAITING = Gauge("forebay_status_writes_waiting", "Functions whose status is yet to be written.")


@dataclass(slots=True)
class _Object:
    """``tries``: writes of the same wish so far. ``answer``: what the last one left there. ``gone``: it does not exist
    any more, whatever the watch still shows. ``longest``: seconds to its next write at most. ``cold_starts``: those
    that were counted before our term."""

    wanted: Wanted
    due: float | None = None
    written: float = float("-inf")
    tries: int = 0
    longest: float = LONGEST
    answer: Body | None = None
    busy: bool = False
    gone: bool = False
    cold_starts: int = 0


class Publisher:
    """For one term. ``stored`` gives an object as the watch last showed it. Times are the loop's, but for ``wall``."""

    def __init__(
        self,
        api: Api,
        stored: Callable[[], Mapping[tuple[str, str], Body]],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._stored = stored
        self._wall = wall
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._objects: dict[FunctionKey, _Object] = {}
        self._moved = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()

    def take(self, outcome: Outcome, invalid: Mapping[FunctionKey, Invalid]) -> None:
        """What a pass said."""
        places = body.Places.of(outcome.seen)
        wishes = {key: body.invalid(found) for key, found in invalid.items()}
        for function in outcome.seen.functions:
            key = function.function.key
            if key in outcome.statuses:
                wishes[key] = body.status(function, outcome, places)
        for key in self._objects.keys() - wishes.keys():
            del self._objects[key]
        for key, wish in wishes.items():
            self._wish(key, wish)

    def look(self, touched: set[tuple[str, str]]) -> None:
        """These objects changed in the API server: somebody else may have written their status."""
        for namespace, name in touched:
            self._schedule(FunctionKey(namespace, name))

    async def run(self) -> None:
        """Until cancelled; writes under way are given up."""
        try:
            while True:
                now = self._clock()
                for key in [key for key, one in self._objects.items() if one.due is not None and one.due <= now]:
                    if len(self._writing) < AT_ONCE:
                        self._begin(key)
                WAITING.set(sum(one.due is not None for one in self._objects.values()))
                await self._rest()
        finally:
            for task in self._writing:
                task.cancel()
            await asyncio.gather(*self._writing, return_exceptions=True)

    async def _rest(self) -> None:
        full = len(self._writing) >= AT_ONCE
        times = [one.due for one in self._objects.values() if one.due is not None]
        left = None if full or not times else max(0.0, min(times) - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._moved.wait()
        self._moved.clear()

    def _wish(self, key: FunctionKey, wish: Wanted) -> None:
        one = self._objects.get(key)
        if new := one is None or one.wanted.uid != wish.uid:
            one = self._objects[key] = _Object(wish)
            one.cold_starts = past.cold_starts(body.status_of(self._newest(key, one) or {}))
        known, one.wanted = one.wanted, body.counted_from(one.cold_starts, wish)
        if new or not body.same(known, one.wanted):
            one.tries = 0
            self._schedule(key)

    def _schedule(self, key: FunctionKey) -> None:
        """Find out whether and when to write."""
        one = self._objects.get(key)
        if one is None or one.busy or one.gone:
            return
        stored = body.status_of(self._newest(key, one) or {})
        apart = body.distance(one.wanted, stored)
        one.due = None
        if apart is None:
            return
        earliest = self._began + (SETTLED if body.premature(one.wanted, stored) else QUIET_START)
        one.due = max(earliest, one.written + min(one.longest, apart * 2.0 ** min(one.tries, 10)))
        self._moved.set()

    def _newest(self, key: FunctionKey, one: _Object) -> Body | None:
        """Of what the watch shows and what our last write left: the watch is late, or it knows of another's write."""
        shown = self._stored().get((key.namespace, key.name))
        if shown is not None and shown["metadata"].get("uid") != one.wanted.uid:
            shown = None
        if shown is None or one.answer is None:
            return shown or one.answer
        return one.answer if _number(shown) < _number(one.answer) else shown

    def _begin(self, key: FunctionKey) -> None:
        one = self._objects[key]
        one.busy, one.due = True, None
        task = asyncio.create_task(self._write(key, one))
        self._writing.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        self._moved.set()  # not before: whoever looked would find no room

    async def _write(self, key: FunctionKey, one: _Object) -> None:
        wanted = one.wanted
        stored = body.status_of(self._newest(key, one) or {})
        try:
            one.answer = await self._api.apply(body.write(key, wanted, stored, self._wall()), subresource="status")
            how = "written"
        except (NotFound, Conflict):  # deleted, or made anew: the watch will say so
            one.gone = True
            how = "gone"
        except ApiError as error:
            how = "unreachable" if isinstance(error, Unreachable) else "refused"
            log.warning("a status could not be written", function=str(key), error=str(error), tries=one.tries)
        finally:
            one.busy = False
        WRITES.labels(how).inc()
        one.written = self._clock()
        one.longest = AWAY if how == "unreachable" else LONGEST
        one.tries = one.tries + 1 if body.same(wanted, one.wanted) else 0
        self._schedule(key)


def _number(found: Body) -> int:
    """Versions are numbers that grow."""
    text = version(found)
    return int(text) if text.isdecimal() else 0
