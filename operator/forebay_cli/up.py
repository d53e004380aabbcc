"""Local mode: operator and gateway in this process, workers as child processes of a zygote."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from forebay_api import local
from forebay_cli.state import State, Untrusted
from forebay_cli.workers import DeviceFlags, Zygote
from forebay_gateway.config import GatewayConfig
from forebay_gateway.server import serve as serve_gateway
from forebay_operator.config import InvalidSetting, OperatorConfig, PrometheusConfig
from forebay_operator.files import FunctionFiles, LoadedFunctions
from forebay_operator.server import serve as serve_operator
from forebay_process.logs import log_to

DRAIN_SECONDS = 30.0
"""How long streams may go on after Ctrl-C."""


class CannotStart(Exception):
    """Something given is wrong, or another system runs in the state folder. The text is for people."""


@dataclass(frozen=True, slots=True)
class UpConfig:
    files: tuple[Path, ...]
    workers: int
    flags: DeviceFlags
    host: str
    port: int
    state: State


def check(config: UpConfig) -> FunctionFiles:
    """What can be refused before anything starts. Raises CannotStart."""
    _prometheus()
    files = FunctionFiles(config.files)
    if problems := files.load().problems:
        raise CannotStart("\n".join(problems))
    longest = config.state.folder / "sockets" / f"w{config.workers}.engine.sock"
    if len(os.fsencode(longest)) > local.LONGEST_SOCKET_PATH:
        raise CannotStart(
            f"--state {config.state.folder}: too long for socket files ({local.LONGEST_SOCKET_PATH} bytes with the "
            "socket's name): choose a shorter path"
        )
    if config.state.runs():
        raise CannotStart(
            f"a system already runs in {config.state.folder}: stop it, or name another folder with --state"
        )
    return files


async def up(config: UpConfig, announce: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM, then drain and leave nothing; a second one ends open streams. Calls ``announce``
    with the URL once it answers, and ``warn`` with each problem of a file that was changed.

    Raises CannotStart, and what a part raises that cannot start: operator or gateway (a port that is taken), or the
    workers (ToolFailed: a device that is not there).
    """
    files = check(config)
    folder = config.state.folder
    log_to(_prepared(config.state))
    operator = f"unix:{folder / local.OPERATOR_SOCKET}"
    zygote = Zygote(config.workers, operator, folder, config.flags, folder / local.LOGS / "workers.log")
    stop = asyncio.Event()
    draining: list[asyncio.Task[None]] = []

    def signalled() -> None:
        if stop.is_set() and draining:
            draining.pop().cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled)

    async with contextlib.AsyncExitStack() as stack:
        # Left in reverse: the gateway drains first, while workers and operator are still there.
        parts = [
            await stack.enter_async_context(_running(_serve_operator(config, operator, watched(files.watch(), warn))))
        ]
        parts.append(await stack.enter_async_context(_running(_unready(zygote.run()))))
        gateway = await stack.enter_async_context(_running(_serve_gateway(config, operator, announce)))
        draining.append(gateway)
        await _until(stop, *parts, gateway)


def _prepared(state: State) -> TextIO:
    """Make the state folder; where logs go in it. Raises CannotStart."""
    folder = state.folder
    try:
        state.make()
        (folder / local.LOGS).mkdir(exist_ok=True)
        (folder / "sockets").mkdir(exist_ok=True)
        return (folder / local.LOGS / "up.log").open("a")
    except Untrusted as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(
            f"the state folder {folder} cannot be written ({error.strerror}): name another one with --state"
        ) from error


async def watched(
    source: AsyncIterator[LoadedFunctions], warn: Callable[[str], None]
) -> AsyncIterator[LoadedFunctions]:
    """What the files say, and to ``warn`` each problem once, for as long as it is there."""
    known: tuple[str, ...] = ()
    async for loaded in source:
        for problem in loaded.problems:
            if problem not in known:
                warn(problem)
        known = loaded.problems
        yield loaded


async def _until(event: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for the event, or for the first task to end: then raise what it raised."""

    async def wait() -> None:
        await event.wait()

    waiting = asyncio.create_task(wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


Ready = Callable[[], None]


@contextlib.asynccontextmanager
async def _running(serve: Callable[[Ready], Coroutine[None, None, None]]) -> AsyncIterator[asyncio.Task[None]]:
    """A part that is up inside the block and stopped after it. Raises what it raised instead of getting ready."""
    ready = asyncio.Event()
    task = asyncio.create_task(serve(ready.set))
    try:
        await _until(ready, task)
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _serve_operator(
    config: UpConfig, address: str, source: AsyncIterator[LoadedFunctions]
) -> Callable[[Ready], Coroutine[None, None, None]]:
    settings = OperatorConfig(
        state=config.state.folder,
        address=address,
        gateway_url=f"http://{config.host}:{config.port}",
        metrics_port=None,
        prometheus=_prometheus(),
    )
    return lambda ready: serve_operator(settings, source, ready=ready)


def _prometheus() -> PrometheusConfig | None:
    """What the environment says of it. Raises CannotStart."""
    try:
        return PrometheusConfig.from_env()
    except InvalidSetting as error:
        raise CannotStart(str(error)) from error


def _serve_gateway(
    config: UpConfig, operator: str, announce: Callable[[str], None]
) -> Callable[[Ready], Coroutine[None, None, None]]:
    settings = GatewayConfig(
        host=config.host, port=config.port, operator=operator, state=config.state.folder, drain_seconds=DRAIN_SECONDS
    )

    def serve(ready: Ready) -> Coroutine[None, None, None]:
        def listening(url: str) -> None:
            announce(url)
            ready()

        return serve_gateway(settings, ready=listening)

    return serve


def _unready(run: Coroutine[None, None, None]) -> Callable[[Ready], Coroutine[None, None, None]]:
    """A part that nobody waits for: workers import for seconds while the gateway already holds requests."""

    def serve(ready: Ready) -> Coroutine[None, None, None]:
        ready()
        return run

    return serve
