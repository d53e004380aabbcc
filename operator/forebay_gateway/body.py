"""Reading a request's body within bounds: its own size, decoded, and time, and what is held together."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from forebay_gateway import errors
from forebay_gateway.config import Limits
from forebay_gateway.ledger import Held


def too_large(limit: int) -> errors.BodyTooLarge:
    return errors.BodyTooLarge(f"the body is larger than {limit} bytes")


async def read(request: web.Request, held: Held, limits: Limits) -> bytes:
    """The whole body. Raises BodyTooLarge (before reading, where the length is known), BodyTooSlow, QueueFull and
    InvalidRequest."""
    if (request.content_length or 0) > limits.body_bytes:
        raise too_large(limits.body_bytes)
    pieces: list[bytes] = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.content.iter_any():
                if held.bytes + len(piece) > limits.body_bytes:
                    raise too_large(limits.body_bytes)
                held.add(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise errors.BodyTooSlow(f"the body did not arrive within {limits.body_seconds:g} s") from None
    except (HttpProcessingError, web.RequestPayloadError) as error:
        raise errors.InvalidRequest(f"the body cannot be decoded: {error}") from None
    return b"".join(pieces)
