"""The way to the operator: one channel, and sessions on it that are begun again for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import grpc
import structlog
from prometheus_client import Counter

log = structlog.get_logger()

BACKOFF_SECONDS = (0.05, 1.0)
"""First and longest pause before a lost session is begun again."""

MESSAGE_BYTES = 64 << 20

FAILURES = Counter(
    "forebay_gateway_session_failures_total", "Sessions with the operator that our own fault ended.", ["session"]
)


def channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", int(BACKOFF_SECONDS[0] * 1000)),
            ("grpc.min_reconnect_backoff_ms", int(BACKOFF_SECONDS[0] * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(BACKOFF_SECONDS[1] * 1000)),
            # Not the pool of the whole process, where another channel's failures would hold this one back.
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


async def keep(name: str, session: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
    """Run ``session`` again and again until cancelled. It calls its argument once the operator has answered."""
    first, longest = BACKOFF_SECONDS
    pause = first
    up = False

    def answered() -> None:
        nonlocal pause, up
        if not up:
            log.info("operator answers", session=name)
        pause, up = first, True

    while True:
        detail = "ended"
        try:
            await session(answered)
        except grpc.aio.AioRpcError as error:
            detail = f"{error.code().name}: {error.details()}"
        except asyncio.InvalidStateError:
            detail = "the call ended"  # what grpc says to a write on it
        except asyncio.CancelledError:
            # grpc raises this, too, for a call that the other side cancelled.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            detail = "cancelled by the operator"
        except Exception:  # the task's border: a gateway that stops listening to its operator must not do so silently
            log.exception("session failed", session=name)
            FAILURES.labels(name).inc()
        if up:
            log.warning("operator lost", session=name, detail=detail)
        up = False
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(longest, pause * 2)
