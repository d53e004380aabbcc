"""Who is let in: services that open and close while the server listens.

A standby must listen, so that whoever looks for the leader learns at once that it is not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from forebay_channel import refuse

CLOSED = "standby: another operator leads"


class Doors(grpc.GenericRpcHandler):
    """Handlers of one server. Until ``add_generic_rpc_handlers`` was called (generated code does, with this in place of
    a server), every call ends UNAVAILABLE: callers try the next address."""

    def __init__(self) -> None:
        self._handlers: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Generated code offers its handlers twice; the first offer will do."""

    def service(self, handler_call_details: Any) -> Any:
        if not self._handlers:
            return grpc.stream_stream_rpc_method_handler(_closed)
        found = (handler.service(handler_call_details) for handler in self._handlers)
        return next((handler for handler in found if handler is not None), None)


async def _closed(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await refuse(requests, context, grpc.StatusCode.UNAVAILABLE, CLOSED)
