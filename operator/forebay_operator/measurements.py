"""What Prometheus measures of the functions: asked in rounds, remembered for as long as their windows are.

One query serves all functions that have none of their own; each own one is asked once, however many have it. Failing
now and then does no harm: a function is blind when its samples are too old, not when one question went unanswered.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import Counter, Gauge, Histogram

from forebay_api.conditions import Reason
from forebay_api.function import FunctionKey, FunctionSpec, ScalingMode
from forebay_operator.asking import FleetAsked, OwnAsked
from forebay_operator.config import PrometheusConfig
from forebay_operator.decide.load import Load, Measured
from forebay_operator.decide.samples import Trouble
from forebay_operator.functions import Known
from forebay_operator.parts import Parts
from forebay_operator.prometheus import Prometheus, Troubled

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Queries under way at a time."""

LEAST_WINDOW = 60.0
"""Seconds to remember before there is any function."""

NOT_ASKED = Trouble(Reason.NOT_YET_KNOWN, "Prometheus has not been asked yet")
LATE = Trouble(Reason.PROMETHEUS_TIMEOUT, "there was no time left to ask Prometheus: its answers take too long")
FAILED = Trouble(Reason.PROMETHEUS_UNREACHABLE, "what Prometheus answers cannot be used; the operator's log says why")

QUERIES = Counter("forebay_prometheus_queries_total", "Queries to Prometheus by what came of them.", ["outcome"])
SECONDS = Histogram(
    "forebay_prometheus_query_seconds",
    "Queries to Prometheus.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BLIND = Gauge("forebay_prometheus_blind_functions", "Functions whose demand Prometheus cannot tell.", ["reason"])


class Measurements:
    """``functions`` are those that exist, ``connected`` says how many gateways' streams are up, ``wake(seconds)`` asks
    for a pass within that time. ``clock`` in unix seconds."""

    def __init__(
        self,
        config: PrometheusConfig,
        *,
        functions: Callable[[], Mapping[FunctionKey, Known]],
        connected: Callable[[], int],
        wake: Callable[[float], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._functions = functions
        self._wake = wake
        self._clock = clock
        self._fleet = FleetAsked(config.interval, connected, clock, config.release)
        self._own: dict[str, OwnAsked] = {}
        self._loads: dict[FunctionKey, tuple[FunctionSpec, Load]] = {}
        self._told: dict[FunctionKey, object] = {}
        self._troubles: dict[str, Reason] = {}

    def seen(self, key: FunctionKey, now: float) -> Measured:
        """``now`` in unix seconds."""
        known = self._functions().get(key)
        asked = self._asked(known) if known else None
        if known is None or asked is None:
            return _blind(NOT_ASKED)
        if not asked.history.samples:
            return _blind(asked.history.trouble or NOT_ASKED)
        if now - asked.history.measured_at > asked.bound:
            stale = Trouble(Reason.STALE_SAMPLES, f"the newest samples are older than {asked.bound:.0f} s")
            return _blind(asked.history.trouble or stale)
        spec = known.function.spec
        if key not in self._loads or self._loads[key][0] is not spec:
            self._loads[key] = spec, asked.load(known.function)
        load = self._loads[key][1]
        if load.known < spec.scaling.window_seconds:
            message = f"less than the window of {spec.scaling.window_seconds} s is known yet"
            return _blind(Trouble(Reason.NOT_YET_KNOWN, message), load)
        return Measured(load, ageless=asked.ageless)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        interval = self._config.interval
        try:
            async with Prometheus(self._config) as prometheus:
                while True:
                    began = loop.time()
                    try:
                        await self._round(prometheus)
                    except Exception:  # the border of the task: whatever it is, the next round may go well
                        QUERIES.labels("Failed").inc()
                        log.exception("a round of queries failed")
                    await asyncio.sleep(max(began + interval - loop.time(), interval / 10))
        finally:
            BLIND.clear()  # who does not lead any more is not asked

    async def _round(self, prometheus: Prometheus) -> None:
        """Ask all there is to ask. Who got no turn within the round's time is first in the next one."""
        functions = self._functions()
        jobs = self._jobs(functions)
        longest = max(
            (float(known.function.spec.scaling.window_seconds) for known in functions.values()), default=LEAST_WINDOW
        )

        async def work() -> None:
            while jobs:
                await self._ask(prometheus, jobs.popleft(), longest)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.interval + self._config.timeout), asyncio.TaskGroup() as workers:
                for _ in range(min(AT_ONCE, len(jobs))):
                    workers.create_task(work())
        for left in jobs:
            left.history.trouble = LATE
        self._loads = await self._means(functions)
        self._publish()

    def _jobs(self, functions: Mapping[FunctionKey, Known]) -> deque[FleetAsked | OwnAsked]:
        queries = {own.query for known in functions.values() if (own := known.function.spec.scaling.prometheus)}
        shared = not functions or any(known.function.spec.scaling.prometheus is None for known in functions.values())
        self._own = {query: asked for query, asked in self._own.items() if query in queries}
        for query in sorted(queries - self._own.keys()):
            self._own[query] = OwnAsked(query, self._config.interval, self._clock)
        return deque([*([self._fleet] if shared else []), *self._own.values()])

    async def _ask(self, prometheus: Prometheus, asked: FleetAsked | OwnAsked, longest: float) -> None:
        name = ""
        if isinstance(asked, OwnAsked):
            name = asked.query
            self._own[name] = self._own.pop(name)  # to the end of the line
        try:
            with SECONDS.time():
                trouble = await asked.ask(prometheus, longest)
        except Troubled as error:
            trouble = error.trouble
        except Exception:  # the border of a query: functions bring their own, and the others are asked all the same
            log.exception("a query failed", query=name[:200] or "default")
            trouble = FAILED
        except asyncio.CancelledError:
            asked.history.trouble = LATE
            raise
        asked.history.trouble = trouble
        QUERIES.labels(trouble.reason.value if trouble else "OK").inc()
        self._tell(name, trouble)

    def _asked(self, known: Known) -> FleetAsked | OwnAsked | None:
        own = known.function.spec.scaling.prometheus
        return self._own.get(own.query) if own else self._fleet

    def _tell(self, query: str, trouble: Trouble | None) -> None:
        """Once for each change."""
        before = self._troubles.get(query)
        if trouble is None and before is not None:
            del self._troubles[query]
            log.info("Prometheus measures again", query=query[:200] or "default")
        if trouble is not None and trouble.reason is not before:
            self._troubles[query] = trouble.reason
            log.warning(
                "Prometheus does not measure",
                query=query[:200] or "default",
                reason=trouble.reason.value,
                message=trouble.message,
            )

    async def _means(self, functions: Mapping[FunctionKey, Known]) -> dict[FunctionKey, tuple[FunctionSpec, Load]]:
        """Worked out here and not in passes, a few at a time: hours of a thousand functions are many numbers."""
        found: dict[FunctionKey, tuple[FunctionSpec, Load]] = {}
        for number, (key, known) in enumerate(functions.items()):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            asked = self._asked(known)
            if asked is not None and asked.history.samples:
                found[key] = known.function.spec, asked.load(known.function)
        return found

    def _publish(self) -> None:
        """Have a pass made if functions are seen otherwise than after the last round."""
        functions, now = self._functions(), self._clock()
        self._troubles = {query: reason for query, reason in self._troubles.items() if not query or query in self._own}
        told: dict[FunctionKey, object] = {}
        blind: collections.Counter[str] = collections.Counter()
        for key, known in functions.items():
            measured = self.seen(key, now)
            told[key] = measured.trouble, measured.load and (measured.load.stable, measured.load.panic)
            if measured.trouble and _scales(known.function.spec):
                blind[measured.trouble[0]] += 1
        BLIND.clear()
        for reason, count in blind.items():
            BLIND.labels(reason).set(count)
        if told != self._told:
            self._told = told
            self._wake(0.0)


def measurements(config: PrometheusConfig | None, parts: Callable[[], Parts]) -> Measurements | None:
    """For an operator's parts, which may not be there before they are first asked for; None without a Prometheus."""
    if config is None:
        return None
    return Measurements(
        config,
        functions=lambda: parts().functions.known,
        connected=lambda: parts().demand.connected(),
        wake=lambda seconds: parts().alarm.within(seconds),
    )


def _blind(trouble: Trouble, load: Load | None = None) -> Measured:
    return Measured(load, (trouble.reason.value, trouble.message))


def _scales(spec: FunctionSpec) -> bool:
    """Whether it is us who say how many replicas there are."""
    return spec.scaling.mode is ScalingMode.INTERNAL and spec.replicas is None and not spec.suspend
