"""The control loop: observe, decide, act, report; one pass at a time, as soon as something happened."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter, Histogram

from forebay_api.function import FunctionKey
from forebay_operator import routes, status
from forebay_operator.act import Actor
from forebay_operator.decide.plan import Plan, next_steps
from forebay_operator.decide.seen import Snapshot
from forebay_operator.decide.steps import Form
from forebay_operator.decisions import Decision, Decisions
from forebay_operator.progress import Progress, progress
from forebay_operator.routes import FunctionRoute, Routes
from forebay_operator.settling import Settling
from forebay_operator.snapshot import Observer
from forebay_operator.status import FunctionStatus, Statuses
from forebay_operator.term import Term
from forebay_operator.timeline import ColdStarts, Timeline

log = structlog.get_logger(__name__)

REST = 0.005
"""Seconds between two passes at least."""

REST_FACTOR = 3.0
"""And this many times as long as the last pass took: the loop never takes more than a quarter of a core."""

RETRY = 1.0
"""Seconds after which a pass that failed is made again, if nothing happens before."""

PASSES = Histogram(
    "forebay_pass_seconds",
    "Passes of the control loop.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
ERRORS = Counter("forebay_pass_errors_total", "Parts of passes that raised.", ["part"])
for _part in ("observe", "decide", "timeline", "report", "act"):
    ERRORS.labels(_part)  # from the start: a rate sees no rise where there was nothing before


class Alarm:
    """When the next pass is due. Whoever wakes it names the longest time that he can wait; the shortest one counts."""

    def __init__(self) -> None:
        self._due = 0.0
        self._moved = asyncio.Event()

    def within(self, seconds: float) -> None:
        due = asyncio.get_running_loop().time() + max(0.0, seconds)
        if due < self._due:
            self._due = due
            self._moved.set()

    async def ring(self) -> None:
        """Wait until it is due, and set it to never."""
        loop = asyncio.get_running_loop()
        while (left := self._due - loop.time()) > 0:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(left) else left):
                    await self._moved.wait()
        self._due = math.inf


@dataclass(slots=True)
class Outcome:
    """What the last pass saw and said; the view is drawn from it."""

    seen: Snapshot
    statuses: Mapping[FunctionKey, FunctionStatus] = field(default_factory=dict)
    progress: Mapping[FunctionKey, Progress | None] = field(default_factory=dict)
    scaling: Mapping[FunctionKey, Decision] = field(default_factory=dict)
    cold_starts: Mapping[FunctionKey, ColdStarts] = field(default_factory=dict)


@dataclass(slots=True)
class Control:
    """``shown`` is called after each pass. Times come from ``clock`` in unix seconds."""

    term: Term
    alarm: Alarm
    observer: Observer
    actor: Actor
    timeline: Timeline
    statuses: Statuses
    decisions: Decisions
    routes: Routes
    settling: Settling
    shown: Callable[[], None]
    clock: Callable[[], float] = time.time
    outcome: Outcome = field(init=False)
    _plan: Plan = field(init=False, default_factory=lambda: Plan((), {}, None))

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.observer.take(self.term.number, self.clock()))

    async def run(self) -> None:
        """Until cancelled. What goes wrong in a pass is logged and counted, and ends nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await self.alarm.ring()
            began = loop.time()
            self.turn()
            took = loop.time() - began
            PASSES.observe(took)
            await asyncio.sleep(max(REST, REST_FACTOR * took))

    def turn(self) -> None:
        """One pass."""
        now = self.clock()
        with self._part("observe"):
            reported = self.observer.take(self.term.number, now)
            seen = self.actor.sent.laid_over(reported, now)
            with self._part("decide"):
                self._plan = next_steps(seen, now)
                self.observer.remember(self._plan)
                self._act(seen, now)
                seen = self.actor.sent.laid_over(reported, now)
            with self._part("timeline"):
                self.timeline.observe(self.observer.fleet.workers, seen.pipelines, now)
            with self._part("report"):
                self._report(seen, now)
        self.shown()
        self._sleep(now)

    def _act(self, seen: Snapshot, now: float) -> None:
        for step in self.settling.allowed(self._plan.steps, seen, now):
            with self._part("act"):
                if self.actor.carry_out(step, seen, now) and isinstance(step, Form):
                    self.timeline.planned(step, seen, now)
        self.actor.ask_again(seen, now)

    def _report(self, seen: Snapshot, now: float) -> None:
        formed = routes.formed(self.observer.fleet.workers, seen, self.actor.sent)
        looks = {}
        for function in seen.functions:
            looks[function.function.key] = status.look(function, seen, formed, self._plan)
        statuses = self.statuses.take(looks, now)
        found = {
            key: progress(
                self.timeline.last(key),
                waiting=look.function.demand.waiting > 0,
                formed=look.formed > 0,
                now=now,
            )
            for key, look in looks.items()
        }
        scaling = self.decisions.take(self._plan, seen, statuses, now)
        self.outcome = Outcome(seen, statuses, found, scaling, self.timeline.ended)
        if self.settling.may_grow(now):  # before, a gateway's own last table is better than what we know
            functions = [FunctionRoute(look.function, statuses[key], found[key]) for key, look in looks.items()]
            self.routes.publish(routes.table(functions, formed.values(), seen))

    def _sleep(self, now: float) -> None:
        times = (
            self._plan.wake_at,
            self.settling.wake_at(now),
            self.actor.sent.wake_at(),
            self.observer.inspections.wake_at(now),
            self.observer.demand.blind_until(now),
        )
        due = min((at for at in times if at is not None), default=None)
        if due is not None:
            self.alarm.within(due - now)

    @contextlib.contextmanager
    def _part(self, part: str) -> Iterator[None]:
        """Independent parts fail independently."""
        try:
            yield
        except Exception:  # the border of the loop: whatever it is, the next pass may go well
            ERRORS.labels(part).inc()
            log.exception("a pass failed", phase=part)
            self.alarm.within(RETRY)
