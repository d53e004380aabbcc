"""/healthz and /readyz for the kubelet, and nothing else: a few lines of HTTP on a port of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from forebay_operator.listen import CannotListen

PATIENCE = 2.0
"""Seconds for a request to come in and its answer to leave."""

LONGEST_HEAD = 8192


@contextlib.asynccontextmanager
async def health_port(port: int, ready: Callable[[], str]) -> AsyncIterator[None]:
    """``ready`` says what is missing, in words; empty: nothing. Raises CannotListen."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head.split(b" ", 2)[1:2], ready))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, port=port, limit=LONGEST_HEAD)
    except OSError as error:
        raise CannotListen(f"cannot listen on health port {port}: {error.strerror or error}") from error
    async with server:
        yield


def _response(path: list[bytes], ready: Callable[[], str]) -> bytes:
    missing = ready() if path == [b"/readyz"] else ""
    if path not in ([b"/healthz"], [b"/readyz"]):
        status, text = "404 Not Found", "there are /healthz and /readyz"
    else:
        status, text = ("503 Service Unavailable", missing) if missing else ("200 OK", "ok")
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
