"""An operator that leads: workers come by one address, people by its own port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

import grpc

from control.operators import QUICK, Source
from forebay_operator.doors import Doors
from forebay_operator.estate import Estate
from forebay_operator.listen import listen
from forebay_operator.parts import Parts, assemble
from forebay_operator.server import started
from forebay_operator.status import Urls
from forebay_operator.term import Term
from forebay_wire.v1 import preview_pb2, preview_pb2_grpc


@dataclass(frozen=True)
class Led:
    """``workers`` and ``people``: gRPC targets."""

    workers: str
    people: str
    parts: Parts


@contextlib.asynccontextmanager
async def led(folder: Path, pools: Collection[str] | None = None) -> AsyncIterator[Led]:
    """Without functions. ``pools``: those that exist; None: there is no such thing."""
    existing = None if pools is None else frozenset(pools)
    parts = assemble(Term(folder / "term"), Urls("http://here"), QUICK, estate=lambda: Estate(existing=existing))
    both = {"workers": Doors(), "people": Doors()}
    parts.attend(both["workers"])
    parts.attend_people(both["people"])
    async with contextlib.AsyncExitStack() as stack:
        targets = {}
        for name, doors in both.items():
            server = grpc.aio.server()
            stack.push_async_callback(server.stop, 0)
            targets[name] = listen(server, f"unix:{folder}/{name}.sock")
            await stack.enter_async_context(started(server, doors))
        running = asyncio.ensure_future(parts.run(Source().watch()))
        try:
            yield Led(**targets, parts=parts)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def asked(target: str, uri: str, **named: str) -> preview_pb2.PreviewAnswer:
    """What a caller is told who keeps to no rules. Raises grpc.aio.AioRpcError."""
    request = preview_pb2.PreviewRequest(**{"uri": uri, "dtype": "auto", "pool": "default", **named})
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return await preview_pb2_grpc.PreviewStub(channel).Look(request, timeout=20)
