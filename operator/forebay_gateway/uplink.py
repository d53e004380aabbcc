"""The way to the operator: sessions that are begun again for ever, at whichever of its addresses one answers.

Of several replicas one acts; the others answer UNAVAILABLE, and the next address is tried at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import grpc
import structlog
from prometheus_client import Counter

from forebay_channel import Identity, InvalidIdentity, Role, Unreachable, addresses, connected, open_channel

log = structlog.get_logger()

BACKOFF_SECONDS = (0.05, 1.0)
"""First and longest pause before a round over all addresses is begun again."""

CONNECT_SECONDS = 1.0

MESSAGE_BYTES = 64 << 20

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # Not the pool of the whole process, where another channel's failures would hold this one back.
    ("grpc.use_local_subchannel_pool", 1),
)
NETWORK_OPTIONS = (
    # A pulled cable breaks no TCP stream, and the operator may have nothing to say for hours.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
)

FAILURES = Counter(
    "forebay_gateway_session_failures_total", "Sessions with the operator that our own fault ended.", ["session"]
)

Session = Callable[[grpc.aio.Channel, Callable[[], None]], Awaitable[None]]


class Uplink:
    """``operator``: gRPC targets divided by commas; a host's name stands for all of its addresses."""

    def __init__(self, operator: str, identity: Identity | None = None) -> None:
        self._targets = tuple(target for part in operator.split(",") if (target := part.strip()))
        self._identity = identity
        self._answered = ""

    async def keep(self, name: str, session: Session) -> None:
        """Run ``session`` again and again until cancelled. It is given a channel to one address, and calls its second
        argument once the operator has answered."""
        first, longest = BACKOFF_SECONDS
        pause, told = first, False
        while True:
            answered, detail = await self._round(name, session)
            if answered:
                pause = first
            elif not told:
                log.warning("operator does not answer", session=name, detail=detail)
            told = not answered
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(longest, pause * 2)

    async def _round(self, name: str, session: Session) -> tuple[bool, str]:
        """Try every address until one has answered, and its session ended. Whether one did, and the last failure."""
        found, detail = await self._addresses()
        for address in found:
            attempt = _Attempt(name, address)
            detail = await attempt.run(session, self._identity, self._prefer)
            if attempt.up:
                log.warning("operator lost", session=name, address=address, detail=detail)
                return True, detail
        return False, detail

    def _prefer(self, address: str) -> None:
        """What one session found out is the others' first guess."""
        self._answered = address

    async def _addresses(self) -> tuple[Sequence[str], str]:
        """All of them, that which answered last first; and why some could not be found."""
        found: list[str] = []
        detail = "no address"
        for target in self._targets:
            try:
                found += await addresses(target)
            except OSError as error:
                detail = f"{target}: {error or type(error).__name__}"
        return sorted(dict.fromkeys(found), key=lambda address: address != self._answered), detail


class _Attempt:
    """One session at one address. ``up``: the operator answered there."""

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        self.up = False

    async def run(self, session: Session, identity: Identity | None, prefer: Callable[[str], None]) -> str:
        """To the session's end; how it ended."""

        def answered() -> None:
            if not self.up:
                log.info("operator answers", session=self._name, address=self._address)
                self.up = True
                prefer(self._address)

        options = OPTIONS if self._address.startswith("unix:") else OPTIONS + NETWORK_OPTIONS
        try:
            async with open_channel(self._address, options, identity=identity, role=Role.OPERATOR) as channel:
                await connected(channel, CONNECT_SECONDS)
                await session(channel, answered)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except (Unreachable, InvalidIdentity) as error:
            return str(error)
        except asyncio.InvalidStateError:
            return "the call ended"  # what grpc says to a write on it
        except asyncio.CancelledError:
            # grpc raises this, too, for a call that the other side cancelled.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return "cancelled by the operator"
        except Exception:  # the task's border: a gateway that stops listening to its operator must not do so silently
            log.exception("session failed", session=self._name)
            FAILURES.labels(self._name).inc()
        return "ended"
