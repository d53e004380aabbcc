"""What gateways say is asked of each function, summed over gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import grpc
import structlog
from prometheus_client import Gauge

from forebay_api.function import FunctionKey, Scaling, ScalingMetric
from forebay_operator.decide.load import Load
from forebay_operator.decide.seen import DemandSeen
from forebay_operator.window import Window
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc

log = structlog.get_logger(__name__)

SILENCE = 3.0
"""Seconds without a report after which a gateway counts as lost. It reports every second."""

MEMORY = 10.0
"""Seconds for which the numbers of a lost gateway still count, and no low number is believed."""

GATEWAYS = Gauge("forebay_gateways_connected", "Gateways with a live demand stream to this operator.")


_Told = Mapping[FunctionKey, demand_pb2.FunctionDemand]


@dataclass(eq=False, slots=True)
class _Gateway:
    """``lost`` is the unix time at which its stream broke."""

    name: str
    functions: dict[FunctionKey, demand_pb2.FunctionDemand] = field(default_factory=dict)
    lost: float | None = None


class Demand(demand_pb2_grpc.DemandServicer):
    """``wake(seconds)`` asks for a pass within that time; ``first_token`` takes each first token of a cold function."""

    def __init__(
        self,
        *,
        wake: Callable[[float], None],
        first_token: Callable[[demand_pb2.FirstToken], None],
        clock: Callable[[], float] = time.time,
        silence: float = SILENCE,
    ) -> None:
        self._wake = wake
        self._first_token = first_token
        self._clock = clock
        self._silence = silence
        self._gateways: dict[str, _Gateway] = {}
        self._windows: dict[FunctionKey, Window] = {}
        self._last_ended: dict[FunctionKey, float] = {}
        self._heard = 0.0
        # Until a gateway has spoken, nothing is known: as if one had just been lost.
        self._unheard_since: float | None = clock()

    def seen(self, key: FunctionKey, now: float) -> DemandSeen:
        told = [gateway.functions[key] for gateway in self._remembered(now) if key in gateway.functions]
        held = [demand for demand in told if demand.waiting and demand.oldest_waiting_unix_us]
        oldest = min(held, key=lambda demand: demand.oldest_waiting_unix_us, default=None)
        window = self._windows.get(key)
        return DemandSeen(
            waiting=sum(demand.waiting for demand in told),
            in_flight=sum(demand.in_flight for demand in told),
            oldest_waiting=oldest.oldest_waiting_unix_us / 1e6 if oldest else 0.0,
            last_ended=self._last_ended.get(key, 0.0),
            prompt_bytes=oldest.prompt_bytes if oldest else 0,
            load=self._load(window, now) if window else Load(),
            blind=self.blind_until(now) is not None,
        )

    def _load(self, window: Window, now: float) -> Load:
        """As of the last report; without any gateway nothing is known."""
        load = window.load(now)
        return replace(load, sampled_at=self._heard, known=load.known if self._gateways else 0.0)

    def connected(self) -> int:
        """Gateways that report now."""
        return sum(gateway.lost is None for gateway in self._gateways.values())

    def blind_until(self, now: float) -> float | None:
        """When low numbers may be believed again, as far as is known (unix seconds); None if they may now. Without any
        gateway they never may: that nobody asks is what only a gateway can say."""
        since = [gateway.lost for gateway in self._gateways.values() if gateway.lost is not None]
        if self._unheard_since is not None:
            since.append(self._unheard_since)
        until = max((moment + MEMORY for moment in since), default=0.0)
        if until > now:
            return until
        return None if self.connected() else now + MEMORY

    def keep(self, functions: Mapping[FunctionKey, Scaling]) -> None:
        """Forget all other functions. One whose windows or metric changed is measured anew."""
        for memory in (self._windows, self._last_ended):
            for key in [key for key in memory if key not in functions]:
                del memory[key]
        for key, scaling in functions.items():
            window = self._windows.get(key)
            if window is None or _measure(window.scaling) != _measure(scaling):
                self._windows[key] = Window(self._clock(), scaling)
                self._record({key}, self._clock())

    def _remembered(self, now: float) -> list[_Gateway]:
        for gateway in list(self._gateways.values()):
            if gateway.lost is not None and gateway.lost + MEMORY <= now:
                del self._gateways[gateway.name]
                self._record(gateway.functions, now)
        return list(self._gateways.values())

    async def Report(
        self,
        requests: AsyncIterable[demand_pb2.DemandReport],
        context: grpc.aio.ServicerContext[demand_pb2.DemandReport, demand_pb2.DemandAck],
    ) -> None:
        gateway: _Gateway | None = None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence) as patience:
                async for report in requests:
                    patience.reschedule(loop.time() + self._silence)
                    gateway = self._hear(report, gateway)
                    await context.write(demand_pb2.DemandAck())
        except TimeoutError:
            log.info("gateway is silent", gateway=gateway and gateway.name)
        finally:
            if gateway is not None and self._gateways.get(gateway.name) is gateway:
                self._lose(gateway)

    def _hear(self, report: demand_pb2.DemandReport, gateway: _Gateway | None) -> _Gateway:
        self._heard = now = self._clock()
        if gateway is None:
            gateway = self._greet(report.gateway, now)
        before = gateway.functions
        gateway.functions = {FunctionKey(told.namespace, told.name): told for told in report.functions}
        for key, told in gateway.functions.items():
            if key in self._windows and told.last_ended_unix_us:
                self._last_ended[key] = max(self._last_ended.get(key, 0.0), told.last_ended_unix_us / 1e6)
        for first in report.first_tokens:
            self._first_token(first)
        named = before.keys() | gateway.functions.keys()
        news = {key for key in named if _gist(before.get(key)) != _gist(gateway.functions.get(key))}
        self._count_tokens(before, gateway.functions, now)
        self._record(news, now)
        if news or report.first_tokens:
            self._wake(0.0)
        return gateway

    def _greet(self, name: str, now: float) -> _Gateway:
        if not self._gateways:  # nobody counted until now
            for window in self._windows.values():
                window.begin(now)
        earlier = self._gateways.get(name)  # the same process, by another stream
        gateway = self._gateways[name] = _Gateway(name, earlier.functions if earlier else {})
        self._unheard_since = None
        self._count()
        log.info("gateway connected", gateway=name)
        return gateway

    def _count_tokens(self, before: _Told, after: _Told, now: float) -> None:
        """Totals of one gateway only grow; what it counted before we heard it the first time is not of now."""
        for key, told in after.items():
            window = self._windows.get(key)
            if window is not None and key in before and window.scaling.metric is ScalingMetric.TOKENS_PER_SECOND:
                window.add(now, float(max(told.tokens - before[key].tokens, 0)))

    def _record(self, keys: Collection[FunctionKey], now: float) -> None:
        for key in keys:
            window = self._windows.get(key)
            if window is not None and window.scaling.metric is ScalingMetric.CONCURRENCY:
                told = [gateway.functions[key] for gateway in self._gateways.values() if key in gateway.functions]
                window.record(now, float(sum(demand.waiting + demand.in_flight for demand in told)))

    def _lose(self, gateway: _Gateway) -> None:
        gateway.lost = self._clock()
        self._count()
        log.info("gateway gone", gateway=gateway.name)
        self._wake(0.0)

    def _count(self) -> None:
        GATEWAYS.set(self.connected())


def _gist(told: demand_pb2.FunctionDemand | None) -> tuple[int, ...]:
    """All of it that a pass must hear of at once. Totals are not among them: they grow all the time."""
    if told is None:
        return ()
    return told.waiting, told.in_flight, told.oldest_waiting_unix_us, told.last_ended_unix_us, told.prompt_bytes


def _measure(scaling: Scaling) -> tuple[object, ...]:
    """All of it that a window depends on."""
    return scaling.metric, scaling.window_seconds, scaling.panic_window_percent
