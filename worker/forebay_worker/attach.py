"""The stream up to the operator: reports go up, commands come down, and it is made again whenever it breaks.

What a worker holds and runs never depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import grpc
import structlog
from prometheus_client import Counter, Gauge

from forebay_channel import Identity, InvalidIdentity, Role, Unreachable, addresses, connected, open_channel
from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 3.0
"""A peer that takes nothing for so long is gone."""
REPORT_SECONDS = 1.0
COALESCE_SECONDS = 0.010
LONGEST_BACKOFF = 1.0
FIRST_BACKOFF = 0.05
LASTING_SECONDS = 1.0
"""A stream that held for so long was with an operator that acts."""

OPTIONS = (
    # Reports go up every second, so a broken cable shows as bytes that nobody acknowledges (TCP_USER_TIMEOUT, which
    # gRPC sets from the keepalive's timeout). Frequent pings of our own would be the operator's to allow.
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.keepalive_timeout_ms", int(SILENCE_SECONDS * 1000)),
    # Backing off is done here; a fresh attempt must not inherit an old one's delay.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
)

attached_gauge = Gauge("forebay_worker_attached", "1 while the operator's stream is up")
attempts_total = Counter("forebay_worker_attach_attempts_total", "Streams to the operator that were tried")
reports_total = Counter("forebay_worker_reports_total", "Reports sent to the operator")

Call: TypeAlias = "grpc.aio.StreamStreamCall[fleet_pb2.WorkerReport, fleet_pb2.Command]"


class _Detached(Exception):
    """The stream ended; the text says how."""


class Attachment:
    """Keeps one stream to one of ``targets``, a host's name standing for all of its addresses: of several replicas one
    acts, and the others answer UNAVAILABLE. ``report`` is asked for the state; ``sent`` is told what was carried."""

    def __init__(
        self,
        targets: Sequence[str],
        identity: Identity | None = None,
        *,
        report: Callable[[], fleet_pb2.WorkerReport],
        sent: Callable[[fleet_pb2.WorkerReport], None],
        obey: Callable[[fleet_pb2.Command], None],
    ) -> None:
        self._targets = tuple(targets)
        self._identity = identity
        self._report = report
        self._sent = sent
        self._obey = obey
        self._changed = asyncio.Event()
        self._streams = False
        self._leaving = False
        self._ended = asyncio.Event()

    def changed(self) -> None:
        """There is something to report. Only on the loop."""
        self._changed.set()

    async def leave(self, seconds: float) -> None:
        """Report a last time, end the stream, and wait until the operator has heard all of it, for ``seconds`` at most:
        one that is cut off looks like a death."""
        self._leaving = True
        self._ended.clear()
        self._changed.set()
        if self._streams:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended.wait()

    async def run(self) -> None:
        """Until cancelled: attach, stay, and after a break try every address, then back off for a second at most."""
        delay = FIRST_BACKOFF
        while True:
            async for target in self._addresses():
                if await self._attend(target):
                    delay = FIRST_BACKOFF
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, LONGEST_BACKOFF)

    async def _addresses(self) -> AsyncIterator[str]:
        for target in self._targets:
            try:
                found = await addresses(target)
            except OSError as error:
                log.info("operator.unknown", target=target, reason=str(error) or type(error).__name__)
                continue
            for address in found:
                yield address

    async def _attend(self, target: str) -> bool:
        """One stream to one address, from its beginning to its end. Whether it lasted: a replica that stands by ends it
        at once, and is not to be asked all the time."""
        attempts_total.inc()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with open_channel(target, OPTIONS, identity=self._identity, role=Role.OPERATOR) as channel:
                await connected(channel, CONNECT_SECONDS)
                began = loop.time()
                await self._stay(fleet_pb2_grpc.FleetStub(channel).Attach(), target)
        except (Unreachable, InvalidIdentity) as error:
            log.info("operator.unreachable", target=target, reason=str(error))
            return False
        except (_Detached, grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            log.info("operator.detached", target=target, reason=_reason(error))
        return loop.time() - began >= LASTING_SECONDS

    async def _stay(self, call: Call, target: str) -> None:
        """One stream, from its first report to its end; always raises."""
        sides = [asyncio.ensure_future(self._read(call)), asyncio.ensure_future(self._write(call, target))]
        self._streams = True
        try:
            done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_EXCEPTION)
            for side in done:
                side.result()
        finally:
            self._streams = False
            self._ended.set()
            attached_gauge.set(0)
            call.cancel()
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _read(self, call: Call) -> None:
        while isinstance(command := await call.read(), fleet_pb2.Command):
            self._obey(command)
        raise _Detached(f"closed by the operator: {(await call.code()).name}")

    async def _write(self, call: Call, target: str) -> None:
        """Ends, without an error, only when we leave."""
        for index in itertools.count():
            self._changed.clear()
            last = self._leaving
            report = self._report()
            async with asyncio.timeout(SILENCE_SECONDS):
                await call.write(report)
            self._sent(report)
            reports_total.inc()
            if last:
                await call.done_writing()
                return
            if index == 0:
                attached_gauge.set(1)
                log.info("operator.attached", target=target)
            await asyncio.sleep(COALESCE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS - COALESCE_SECONDS):
                    await self._changed.wait()


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
