"""The real operator on a unix socket, and functions as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from forebay_api.function import Function, FunctionKey
from forebay_operator.config import OperatorConfig
from forebay_operator.server import Timing, serve
from forebay_wire.v1 import view_pb2, view_pb2_grpc

QUICK = Timing(silence=3.0, grow=0.25, shrink=0.5)


def function(name: str, uri: str, generation: int = 1, **spec: object) -> Function:
    return Function.from_body(
        {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "LLMFunction",
            "metadata": {"name": name, "uid": f"uid-{name}", "generation": generation},
            "spec": {"model": {"uri": uri}, **spec},
        }
    )


@dataclass(frozen=True)
class Loaded:
    functions: dict[FunctionKey, Function]
    problems: tuple[str, ...] = ()


class Source:
    """Functions as a test says."""

    def __init__(self, *functions: Function) -> None:
        self._queue: asyncio.Queue[Loaded] = asyncio.Queue()
        self.apply(*functions)

    def apply(self, *functions: Function) -> None:
        self._queue.put_nowait(Loaded({function.key: function for function in functions}))

    async def watch(self) -> AsyncIterator[Loaded]:
        while True:
            yield await self._queue.get()


class Operator:
    """The real one, on a unix socket in ``state``."""

    def __init__(self, state: Path, source: Source, timing: Timing = QUICK) -> None:
        self.config = OperatorConfig(state, f"unix:{state}/operator.sock", "http://127.0.0.1:8080", None)
        self.source = source
        self._timing = timing
        self._task: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        return self.config.address

    async def start(self) -> None:
        ready = asyncio.Event()
        serving = serve(self.config, self.source.watch(), ready=ready.set, timing=self._timing)
        self._task = asyncio.ensure_future(serving)
        waiting = asyncio.ensure_future(ready.wait())
        await asyncio.wait([self._task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiting.cancel()
            await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def view(self) -> str:
        async with grpc.aio.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            async for snapshot in view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest(once=True)):
                return snapshot.json
        raise AssertionError("no snapshot")
