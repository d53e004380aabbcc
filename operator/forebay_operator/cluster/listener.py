"""kopf, embedded: it lists and watches some kinds and passes every event on. It writes nothing.

It runs in a thread and loop of its own, because it takes the process's signals and, when it ends, cancels every task of
its loop. Only ``Watch`` uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import kopf
import structlog
from prometheus_client import Counter

from forebay_operator.cluster.kinds import Kind
from forebay_operator.cluster.login import kopf_login
from forebay_operator.cluster.seen import Body

log = structlog.get_logger(__name__)

AGAIN = 1.0
"""Seconds after which a listener that ended begins anew."""

STOPPING = 3.0
"""Seconds that it has for stopping; then its thread is left behind, unheard. With the process it ends at the latest."""

BACKOFFS = (0.2, 0.5, *(1.0,) * 8)
"""Seconds between attempts of one request: an API server that is back is found within a second."""

# It repeats for each watch and second what ``Watch`` says once: that the API server is out of reach.
logging.getLogger("kopf").setLevel(logging.WARNING)
logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # it misses signals, which are ours
logging.getLogger("kopf._cogs.clients").setLevel(logging.CRITICAL)

ENDS = Counter("forebay_watch_restarts_total", "Watches that ended and were begun anew.", ["scope"])


@dataclass(frozen=True, slots=True)
class Watched:
    """``namespace`` empty: everywhere. ``selector``: by labels, obeyed by the server."""

    kind: Kind
    namespace: str = ""
    selector: str = ""


Take = Callable[[Kind, str | None, Body], None]


class Listener:
    """Watches kinds of one scope: all of one namespace, or all everywhere. ``take(kind, event, body)`` is called in the
    loop of whoever runs it."""

    def __init__(self, watched: Sequence[Watched], take: Take, context: str | None) -> None:
        self._watched = watched
        self._take = take
        self._context = context
        self._namespace = watched[0].namespace
        ENDS.labels(self._namespace or "everywhere")  # from the start, so that a first end counts as a rise
        self._kopf: _Thread | None = None
        self._number = 0

    async def run(self) -> None:
        """Until cancelled; a kopf that ends is begun anew."""
        while True:
            self._number += 1
            thread = self._kopf = _Thread(partial(self._operate, self._number))
            try:
                await thread.run()
            except Exception:  # the border of kopf: whatever ends it, the next one may go well
                log.exception("a watch ended", scope=self._namespace or "everywhere")
            ENDS.labels(self._namespace or "everywhere").inc()
            await asyncio.sleep(AGAIN)

    def begin_anew(self) -> None:
        """What it shows is not what there is."""
        if self._kopf is not None:
            self._kopf.stop()
            asyncio.get_running_loop().call_later(STOPPING, self._kopf.leave)

    async def _operate(self, number: int, stop: asyncio.Event, caller: asyncio.AbstractEventLoop) -> None:
        """In the thread."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._log_in)
        for watched in self._watched:
            kind = watched.kind
            kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(self._passing(number, kind, caller))
        await kopf.operator(
            registry=registry,
            settings=_settings(self._watched),
            standalone=True,
            clusterwide=not self._namespace,
            namespaces=[self._namespace] if self._namespace else [],
            stop_flag=stop,
        )

    async def _log_in(self, **_: object) -> kopf.ConnectionInfo:
        return await kopf_login(self._context)

    def _passing(self, number: int, kind: Kind, caller: asyncio.AbstractEventLoop) -> Callable[..., object]:
        async def heard(event: kopf.RawEvent, **_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody listens any more
                caller.call_soon_threadsafe(self._hear, number, kind, event["type"], event["object"])

        return heard

    def _hear(self, number: int, kind: Kind, event: str | None, body: Body) -> None:
        """What an earlier kopf still has to say is old."""
        if number == self._number:
            self._take(kind, event, body)


def _settings(watched: Sequence[Watched]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # else it would need to watch namespaces and CRDs
    settings.networking.error_backoffs = BACKOFFS
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    settings.process.ultimate_exiting_timeout = None  # it kills its thread, and so the process
    settings.queueing.idle_timeout = 0.5
    for one in watched:
        if one.selector:
            settings.watching.label_selectors[one.kind.group, one.kind.version, one.kind.plural] = one.selector
    return settings


class _Thread:
    """Runs ``main(stop, loop of the caller)`` in a thread with a loop of its own."""

    def __init__(self, main: Callable[[asyncio.Event, asyncio.AbstractEventLoop], object]) -> None:
        self._main = main
        self._lock = threading.Lock()
        self._inner: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._ended: asyncio.Future[BaseException | None] | None = None
        self._stopped = False

    async def run(self) -> None:
        """Until it ends, raising what it raised. When cancelled, it is stopped."""
        caller = asyncio.get_running_loop()
        ended = self._ended = caller.create_future()
        threading.Thread(target=self._work, args=(caller, ended), name="watch", daemon=True).start()
        try:
            error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([ended], timeout=STOPPING)
            raise
        if error is not None:
            raise error

    def leave(self) -> None:
        """It had its time for stopping: whoever runs it waits no longer."""
        if self._ended is not None:
            _settle(self._ended, RuntimeError(f"it did not stop within {STOPPING:g} s"))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._inner is not None:
                loop, stop = self._inner
                with contextlib.suppress(RuntimeError):  # it has ended already
                    loop.call_soon_threadsafe(stop.set)

    def _work(self, caller: asyncio.AbstractEventLoop, ended: asyncio.Future[BaseException | None]) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._inside(caller))
        except BaseException as raised:  # noqa: BLE001  # the border of the thread: the caller raises it
            error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed
            caller.call_soon_threadsafe(_settle, ended, error)

    async def _inside(self, caller: asyncio.AbstractEventLoop) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._inner = asyncio.get_running_loop(), stop
            if self._stopped:
                stop.set()
        await self._main(stop, caller)  # type: ignore[misc]


def _settle(ended: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not ended.done():
        ended.set_result(error)
