"""Connections to a worker's hop by somebody who knows the frames, and keeps to nothing else."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Protocol

import grpc
import torch

from engine.rig import Node
from forebay_wire.v1 import stage_pb2, stage_pb2_grpc
from forebay_worker.frame import bytes_of, epoch_message, pieces, write
from forebay_worker.hop import Key, Pace

QUICK = Pace(heartbeat=0.1, silence=0.5, form=0.3)
ONE = stage_pb2.Slice(length=1, blocks=[0])


class Stranger(Protocol):
    """A connection to a worker by somebody who knows the frames, and keeps to nothing else."""

    def write(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None = None) -> None: ...

    def ended(self) -> bool:
        """Waits until the worker has ended it; False when it does not."""

    def close(self) -> None: ...


class ByStream:
    def __init__(self, node: Node, seconds: float = 10.0) -> None:
        self._loop, self._seconds = node.loop, seconds
        self._channel, self._call = node.loop.do(self._open(node.tcp))

    async def _open(self, target: str) -> tuple[grpc.aio.Channel, Any]:
        channel = grpc.aio.insecure_channel(target)
        return channel, stage_pb2_grpc.StageStub(channel).Run(timeout=self._seconds)

    def write(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None = None) -> None:
        payload = memoryview(b"") if tensor is None else bytes_of(tensor)
        for piece in pieces(frame, payload):
            self._loop.do(self._call.write(piece))

    def ended(self) -> bool:
        return self._loop.do(self._code()) is not grpc.StatusCode.DEADLINE_EXCEEDED

    async def _code(self) -> grpc.StatusCode:
        with suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass
        return await self._call.code()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._call.cancel()
        self._loop.do(self._channel.close())


class BySocket:
    def __init__(self, node: Node, seconds: float = 10.0) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(seconds)
        self._sock.connect(node.hops.unix)

    def write(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None = None) -> None:
        write(self._sock, frame, tensor)

    def ended(self) -> bool:
        try:
            return self._sock.recv(1) == b""
        except ConnectionResetError:  # it had not read all we sent
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self._sock.close()


def frame(key: Key, **fields: Any) -> stage_pb2.Frame:
    return stage_pb2.Frame(epoch=epoch_message(key.epoch), stage=key.stage, **fields)
