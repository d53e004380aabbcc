"""Reading a request's body within bounds: its own size and time, and what all bodies together may hold."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from forebay_gateway import errors
from forebay_gateway.config import Limits


class Ledger:
    """Bytes that requests make the gateway hold, while they are read, wait and are served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def open(self) -> Held:
        return Held(self)


class Held:
    """One request's entry in the ledger. A context manager."""

    def __init__(self, ledger: Ledger) -> None:
        self.bytes = 0
        self._ledger = ledger

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.used -= self.bytes

    def add(self, nbytes: int) -> None:
        """Raises QueueFull."""
        if self._ledger.used + nbytes > self._ledger.limit:
            raise errors.QueueFull(
                f"requests hold {self._ledger.used} bytes here, and {self._ledger.limit} is the limit", retry_after=1
            )
        self._ledger.used += nbytes
        self.bytes += nbytes


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
