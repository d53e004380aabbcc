"""The gateway as a process: parts put together, a port, a file that says where, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import structlog
from aiohttp import web

from forebay_api import local
from forebay_gateway.app import App
from forebay_gateway.config import GatewayConfig
from forebay_gateway.errors import CannotStart, PortTaken
from forebay_gateway.heads import Heads, address
from forebay_gateway.page import Page
from forebay_gateway.relay import Relay
from forebay_gateway.report import Reporter
from forebay_gateway.roster import Roster
from forebay_gateway.uplink import Uplink
from forebay_gateway.waiting import Room
from forebay_process.expiry import watched

log = structlog.get_logger()

BACKLOG = 4096
LINGER_SECONDS = 1.0
"""How long the rest of a refused body is read and thrown away, so that its sender gets to see why."""

ABORT_SECONDS = 1.0
"""For what is left when the drain is over."""


async def serve(config: GatewayConfig, *, ready: Callable[[str], None]) -> None:
    """Serve until cancelled; then say that we leave, serve for ``config.lame_duck_seconds`` those who have not heard,
    stop accepting, finish what runs within ``config.drain_seconds``, and end. Cancelled again, it waits for nothing.

    ``ready`` is called with the base URL once it listens. Raises CannotStart.
    """
    reporter = Reporter(f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    roster = Roster()
    heads = Heads(config.identity)
    uplink = Uplink(config.operator, config.identity)
    room = Room(roster, reporter.changed)
    page = Page(uplink)
    app = App(config, roster, room, Relay(roster, room, heads, reporter), page)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(watched(config.identity))
        stack.push_async_callback(heads.close)
        await stack.enter_async_context(_background(roster.follow(uplink, reporter.gateway)))
        await stack.enter_async_context(_background(reporter.run(uplink, lambda: room.desks)))
        await stack.enter_async_context(_background(_keep_lines(roster, heads)))
        url, stop = await _listen(config, app)
        stack.push_async_callback(stop)
        stack.push_async_callback(page.close)
        stack.enter_context(_state_file(config.state / local.GATEWAY_FILE, url))
        log.info("gateway listens", url=url, operator=config.operator)
        ready(url)
        await asyncio.Event().wait()


async def _listen(config: GatewayConfig, app: App) -> tuple[str, Callable[[], Coroutine[None, None, None]]]:
    """The base URL, and what stops it. Raises CannotStart."""
    runner = web.AppRunner(
        app.application(),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=ABORT_SECONDS,
        lingering_time=LINGER_SECONDS,
        keepalive_timeout=75.0,
    )
    await runner.setup()
    assert runner.server is not None
    try:
        server = await asyncio.get_running_loop().create_server(
            runner.server,
            None if config.host == "::" else config.host,  # asyncio has :: take no IPv4, unlike everybody else
            config.port,
            backlog=BACKLOG,
        )
    except OSError as error:
        await runner.cleanup()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {config.port} of {config.host} is taken: stop what listens there, or name another"
            ) from None
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotStart(f"cannot listen on port {config.port} of {config.host}: {why}") from None

    async def stop() -> None:
        patient = await _leave(app, config.lame_duck_seconds)
        app.closing = True
        await _stop_accepting(server)
        try:
            await _drain(app, config.drain_seconds if patient else 0.0)
        finally:
            await runner.cleanup()

    port = server.sockets[0].getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{port}", stop


async def _leave(app: App, seconds: float) -> bool:
    """Not ready any more, but still serving: who sends us requests hears of it later. False when cancelled, which is
    a second wish to stop: the first one is on its way already."""
    app.leaving = True
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return False
    return True


async def _stop_accepting(server: asyncio.Server) -> None:
    """A turn before closing: asyncio loses a connection that it accepts in the turn in which its server closes."""
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener)
    for _ in range(2):
        await asyncio.sleep(0)
    server.close()


async def _drain(app: App, seconds: float) -> None:
    """Let requests end by themselves; end the rest with an error that says why, at once when cancelled."""
    try:
        if app.active:
            log.info("gateway drains", requests=len(app.active))
            await asyncio.wait(app.active, timeout=seconds)
    finally:
        for task in app.active:
            task.cancel()
        if app.active:
            await asyncio.wait(app.active, timeout=ABORT_SECONDS)


async def _keep_lines(roster: Roster, heads: Heads) -> None:
    """Let connections to heads that are routed no longer go."""
    while True:
        await roster.change()
        await heads.keep_only({address(pipeline) for pipeline in roster.all_pipelines})


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def _state_file(path: Path, url: str) -> Iterator[None]:
    """``{"pid", "url"}`` for who looks for a running gateway; removed at the end, if it still is ours.

    Raises CannotStart."""
    mine = json.dumps({"pid": os.getpid(), "url": url})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(mine)
        draft.replace(path)
    except OSError as error:
        raise CannotStart(f"the state folder {path.parent} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == mine:
                path.unlink()
