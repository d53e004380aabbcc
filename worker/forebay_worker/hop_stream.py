"""The hop between nodes: Stage.Run, on the worker's asyncio loop, from one worker's gRPC server to the next one's.

    sender                                                   receiver
    device thread ── queue ──▶ loop ── frames, in pieces ──▶ loop ──▶ Inbound
                                    ── a heartbeat each second when there is none ──▶
                                    ◀── a beat each second ──

Three seconds without a word are the end, for both: a pulled cable breaks no TCP stream, nor does a stopped process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeAlias

import grpc
import torch

from forebay_channel import Identity, InvalidIdentity, Role, open_channel, refuse
from forebay_wire.v1 import stage_pb2, stage_pb2_grpc
from forebay_worker.frame import Assembly, HopLost, bytes_of, pieces
from forebay_worker.hop_inbound import Inbound, Visit
from forebay_worker.hop_peer import Key, Lost, Pace, Peer, bytes_total, frames_total

QUEUED_FRAMES = 64  # that the network has not taken; a pipeline never has as many steps in flight
OPTIONS = (
    # A connection of its own: frames do not wait behind another pipeline's, nor for the back-off of an earlier failure.
    ("grpc.use_local_subchannel_pool", 1),
)

Call: TypeAlias = "grpc.aio.StreamStreamCall[stage_pb2.Frame, stage_pb2.Beat]"
Context: TypeAlias = "grpc.aio.ServicerContext[stage_pb2.Frame, stage_pb2.Beat]"


class StreamHop:
    """A Hop to ``peer.tcp`` that connects in the background. ``send`` never blocks: frames wait in a bounded queue."""

    def __init__(
        self, key: Key, peer: Peer, lost: Lost, pace: Pace, loop: asyncio.AbstractEventLoop, identity: Identity | None
    ) -> None:
        self._key = key
        self._peer = peer
        self._lost = lost
        self._pace = pace
        self._loop = loop
        self._identity = identity
        self.frames = 0
        self.bytes = 0
        self._queue: deque[tuple[stage_pb2.Frame, memoryview]] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._ended = ""  # why
        self._met = False
        loop.call_soon_threadsafe(self._start)

    def send(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        if self._ended:
            raise HopLost(self._ended)
        if len(self._queue) >= QUEUED_FRAMES:
            raise HopLost(f"{self._peer.tcp} has left {QUEUED_FRAMES} frames untaken")
        payload = memoryview(b"") if tensor is None else bytes_of(tensor)
        size = frame.ByteSize() + len(payload)
        self._queue.append((frame, payload))
        try:
            self._loop.call_soon_threadsafe(self._filled.set)
        except RuntimeError as error:
            raise HopLost("this worker stops") from error
        self.frames += 1
        self.bytes += size
        frames_total.inc()
        bytes_total.inc(size)

    def close(self) -> None:
        self._closed = True
        with suppress(RuntimeError):  # the loop has closed, and all calls with it
            self._loop.call_soon_threadsafe(self._stop)

    def _start(self) -> None:
        if not self._closed:
            self._task = asyncio.create_task(self._run(), name=f"hop-{self._key.epoch}-{self._key.stage}")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        reason = "it failed"
        try:
            reason = await self._talk()
        finally:
            self._ended = f"{self._peer.tcp}: {reason}" if self._met else f"cannot reach {self._peer.tcp}: {reason}"
            self._queue.clear()
            if not self._closed:
                self._lost(self._key, self._ended)

    async def _talk(self) -> str:
        """Frames and beats, until one side ends it or is gone; returns why."""
        if not self._peer.tcp:
            return f"no socket at {self._peer.unix!r}, and no TCP address"
        try:
            channel = open_channel(self._peer.tcp, OPTIONS, identity=self._identity, role=Role.WORKER)
        except InvalidIdentity as error:
            return str(error)
        async with channel:
            call = stage_pb2_grpc.StageStub(channel).Run()
            listening = asyncio.create_task(self._listen(call))
            writing = asyncio.create_task(self._write(call))
            try:
                await asyncio.wait((listening, writing), return_when=asyncio.FIRST_COMPLETED)
                return (listening if listening.done() else writing).result()
            finally:
                listening.cancel()
                writing.cancel()
                await asyncio.gather(listening, writing, return_exceptions=True)
                call.cancel()

    async def _listen(self, call: Call) -> str:
        """Beats, until there is no more; returns why."""
        try:
            while True:
                async with asyncio.timeout(self._pace.silence):
                    if await call.read() is grpc.aio.EOF:
                        return "closed the connection"
                self._met = True
        except TimeoutError:
            return f"silent for {self._pace.silence} s"
        except grpc.aio.AioRpcError as error:
            return f"{error.details()} ({error.code().name})"

    async def _write(self, call: Call) -> str:
        """Frames as they are queued, and heartbeats; returns why it could not go on."""
        try:
            await call.write(self._key.heartbeat())  # says for which pipeline, before a long frame has come
            while True:
                async for piece in self._next():
                    async with asyncio.timeout(self._pace.silence):
                        await call.write(piece)
        except TimeoutError:
            return f"took nothing for {self._pace.silence} s"
        except grpc.aio.AioRpcError as error:
            return f"{error.details()} ({error.code().name})"
        except asyncio.InvalidStateError:  # ended while we waited; _listen knows why
            return "closed the connection"

    async def _next(self) -> AsyncIterator[stage_pb2.Frame]:
        """The next frame in pieces, or a heartbeat."""
        if not self._queue:
            self._filled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.heartbeat):
                    await self._filled.wait()
        if not self._queue:
            yield self._key.heartbeat()
            return
        for piece in pieces(*self._queue.popleft()):
            yield piece


class StageService(stage_pb2_grpc.StageServicer):
    """Takes in the neighbours on other nodes."""

    def __init__(self, inbound: Inbound, pace: Pace) -> None:
        self._inbound = inbound
        self._pace = pace

    async def Run(self, requests: object, context: Context) -> None:
        loop = asyncio.get_running_loop()
        dismissed = asyncio.Event()
        try:
            visit = self._inbound.enter(lambda: _tell(loop, dismissed))
        except HopLost as error:
            await refuse(requests, context, grpc.StatusCode.UNAVAILABLE, str(error))
        reading = asyncio.create_task(self._read(visit, context))
        over = asyncio.Event()
        beating = asyncio.create_task(self._beat(context, over))
        closing = asyncio.create_task(dismissed.wait())
        reason = "connection closed"
        try:
            # Cancelled when the neighbour is gone.
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            reason = reading.result() if reading.done() else "its pipeline ended here"
        finally:
            self._inbound.leave(visit, reason)
            over.set()
            # A beat that is on its way, cancelled or not, keeps the status of the call from being sent.
            await asyncio.wait((beating,), timeout=self._pace.silence)
            for task in (tasks := (reading, beating, closing)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)

    async def _read(self, visit: Visit, context: Context) -> str:
        """Takes frames until there is no more; returns why."""
        assembly = Assembly()
        try:
            while True:
                async with asyncio.timeout(self._pace.silence):
                    piece = await context.read()
                if not isinstance(piece, stage_pb2.Frame):  # grpc.aio.EOF
                    return "connection closed"
                if whole := assembly.add(piece):
                    self._inbound.take(visit, *whole)
        except TimeoutError:
            return f"silent for {self._pace.silence} s"
        except HopLost as error:
            return str(error)

    async def _beat(self, context: Context, over: asyncio.Event) -> None:
        while not over.is_set():
            await context.write(stage_pb2.Beat())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.heartbeat):
                    await over.wait()


def _tell(loop: asyncio.AbstractEventLoop, dismissed: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has closed, and all calls with it
        loop.call_soon_threadsafe(dismissed.set)
