"""The operator's view of itself, as `forebay get` and `forebay timeline` read it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from forebay_cli.state import NothingRuns
from forebay_wire.v1 import view_pb2, view_pb2_grpc

View = dict[str, Any]
"""The JSON object of view.proto: lists under functions, workers, pipelines, models, coldStarts; one operator."""

ANSWER_SECONDS = 5.0
"""How long the operator may take for one snapshot."""

LOOPBACK = (("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0))
"""Options of a channel to something on this machine."""

AGAIN_SECONDS = 0.25
"""Between two looks for an operator that went."""


class OperatorAway(Exception):
    """The operator does not answer."""


async def watch(target: str, *, once: bool = False) -> AsyncIterator[View]:
    """Snapshots as they change; only the present one with ``once``. Raises OperatorAway."""
    async with grpc.aio.insecure_channel(target, options=LOOPBACK) as channel:
        try:
            async for snapshot in view_pb2_grpc.ViewStub(channel).Watch(
                view_pb2.ViewRequest(once=once), timeout=ANSWER_SECONDS if once else None, wait_for_ready=once
            ):
                yield json.loads(snapshot.json)
        except grpc.aio.AioRpcError as error:
            raise OperatorAway(f"the operator at {target} does not answer: {error.details()}") from error


async def follow(find: Callable[[], str]) -> AsyncIterator[View]:
    """Snapshots as they change, for ever: when the operator goes, wait quietly for the next one. ``find`` gives its
    gRPC target. Raises OperatorAway and NothingRuns where there was none to begin with."""
    begun = False
    while True:
        try:
            async for snapshot in watch(find()):
                begun = True
                yield snapshot
        except (OperatorAway, NothingRuns):
            if not begun:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


async def look(target: str) -> View:
    """The present snapshot. Raises OperatorAway."""
    async for snapshot in watch(target, once=True):
        return snapshot
    raise OperatorAway(f"the operator at {target} sent no snapshot")
