"""What is done again and again: when something happened, and when it said itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

AGAIN = 2.0
"""Seconds after which a duty that failed is tried again."""

ERRORS = Counter("forebay_duty_errors_total", "Duties that raised.", ["duty"])


@contextlib.contextmanager
def carefully(name: str) -> Iterator[None]:
    """What goes wrong inside is logged and counted, and ends nothing."""
    try:
        yield
    except Exception:  # the border of the duty: whatever it is, the next time may go well
        ERRORS.labels(name).inc()
        log.exception("a duty failed", duty=name)


async def duty(name: str, keep: Callable[[float], Awaitable[float | None]], news: asyncio.Event, apart: float) -> None:
    """Call ``keep(now)`` for ever: when there are news, and when it last said (unix seconds)."""
    ERRORS.labels(name)  # from the start: a rate sees no rise where there was nothing before
    while True:
        news.clear()
        due: float | None = time.time() + AGAIN
        with carefully(name):
            due = await keep(time.time())
        await asyncio.sleep(apart)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                await news.wait()
