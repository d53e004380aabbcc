"""How a server says no before it has read anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc

HEARING_SECONDS = 5.0


async def refuse(
    request: Any, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, details: str
) -> NoReturn:
    """End the call with this status. ``request`` is what the handler was given: the message, or the iterator of a
    caller that streams; of that one the first message is awaited, at most ``HEARING_SECONDS``, and whatever it is. A
    Python caller whose first write meets a call that has ended would overwrite the status with an INTERNAL of its own
    and never learn what was wrong (grpc/grpc#36066)."""
    if isinstance(request, AsyncIterator):
        # Whatever reading raises, a message that is none included: the caller is refused all the same.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(HEARING_SECONDS):
                await anext(request)
    await context.abort(code, details)
