"""`make demo` and `make up`: the whole thing on this machine, with a real model and four emulated links."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from forebay_cli import coldstart, view
from forebay_cli.answer import Answer, show
from forebay_cli.invoke import InvokeFailed
from forebay_cli.state import NothingRuns, State
from forebay_cli.view import OperatorAway

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "smollm2.yaml"
MODEL = "smollm2-135m-instruct-fp32"
FUNCTION = "default/smollm2"
QUESTION = "In one sentence: what does a forebay in front of a water turbine do?"
WORKERS = 4
LINK_RATE = "50MB/s"
START_SECONDS = 120.0
CONSOLIDATION_SECONDS = 30.0

out = Console()


class DemoFailed(Exception):
    """The demo cannot go on. The text is for people."""


def models_folder() -> Path:
    cache = Path(os.environ.get("FOREBAY_CACHE", Path.home() / ".cache" / "forebay"))
    return Path(os.environ.get("FOREBAY_MODELS", cache / "models"))


async def make_model(folder: Path) -> None:
    """The real model, once. Raises DemoFailed."""
    if (folder / MODEL / "config.json").exists():
        return
    out.print(f"▸ making the model once: SmolLM2-135M-Instruct as fp32 safetensors in {folder / MODEL}")
    async with child("forebay_worker", "model", "smollm2", str(folder / MODEL)) as process:
        if await process.wait():
            raise DemoFailed("the model could not be made; the lines above say why")


@contextlib.asynccontextmanager
async def child(module: str, *words: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """``python -m module`` with these words; after the block it has ended."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words, **options)
    try:
        yield process
    finally:
        await stop(process)


@contextlib.asynccontextmanager
async def started(state: State, port: int, models: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`forebay up`, as a user would start it, once it answers; after the block it is stopped. Raises DemoFailed."""
    words = ["up", "-f", str(EXAMPLE), "--workers", str(WORKERS), "--device", "cpu", "--link-rate", LINK_RATE]
    words += ["--port", str(port), "--state", str(state.folder)]
    out.print(f"▸ forebay {' '.join(words)}", highlight=False, soft_wrap=True)
    environ = {**os.environ, "FOREBAY_MODELS": str(models), "PYTHONUNBUFFERED": "1"}
    async with child("forebay_cli", *words, stdout=asyncio.subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            line = b""
        if not line:
            raise DemoFailed("`forebay up` did not start; the line above says why")
        out.print(f"  {line.decode().strip()}", highlight=False)
        yield process


async def workers_ready(state: State) -> None:
    """Wait until all workers are attached and the model was inspected. Raises DemoFailed."""

    async def wait() -> None:
        async for seen in view.watch(state.operator()):
            backbones = {function["backbone"] for function in seen["functions"]}
            ready = sum(bool(backbones) and backbones <= set(worker["prepared"]) for worker in seen["workers"])
            status.update(f"▸ {ready} of {WORKERS} workers warm (each has imported torch and waits for bytes)")
            if ready == WORKERS:
                return

    with out.status("▸ warming up") as status:
        try:
            await asyncio.wait_for(wait(), START_SECONDS)
        except TimeoutError:
            raise DemoFailed(
                f"the workers were not ready within {START_SECONDS:.0f} s: see {state.folder}/logs"
            ) from None
    out.print(f"  {WORKERS} workers are warm; the function is at zero and holds no memory of any device")


async def ask(state: State) -> None:
    """One question to the function at zero; prints the answer, the phases and the picture's path."""
    out.print(f"▸ asking: {QUESTION}", highlight=False)
    answer = await show(state.gateway(), FUNCTION, QUESTION, out=out, err=out, max_tokens=64)
    seen = await view.look(state.operator())
    cold = coldstart.pick(seen["coldStarts"], FUNCTION)
    report(answer, cold)
    status = "▸ letting the background loading finish, so that the picture shows the consolidation"
    with out.status(status):
        cold = await consolidated(state)
    picture = Path("demo") / "timeline.png"
    picture.parent.mkdir(exist_ok=True)
    coldstart.draw(cold, picture)
    out.print(f"▸ the picture of this cold start: {picture}")


async def consolidated(state: State) -> coldstart.ColdStart:
    """The cold start once one worker serves alone, or as it is when the patience ends."""
    cold: coldstart.ColdStart = {}

    async def wait() -> None:
        nonlocal cold
        async for seen in view.watch(state.operator()):
            cold = coldstart.pick(seen["coldStarts"], FUNCTION)
            if cold["consolidatedAt"] is not None:
                return

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait(), CONSOLIDATION_SECONDS)
    return cold


def report(answer: Answer, cold: coldstart.ColdStart) -> None:
    """Time to first token by phase, measured beside predicted."""
    if answer.first is not None:
        out.print(f"▸ time to first token, seen by the client: {answer.first:.2f} s", highlight=False)
    for name, seconds in coldstart.phases(cold):
        if seconds is not None:
            out.print(f"    {name:26}{seconds:8.3f} s", highlight=False)
    predicted = cold.get("predicted")
    if predicted:
        for name, key in (("first byte ▸ servable", "servable"), ("first byte ▸ first token", "firstToken")):
            out.print(f"    {name:26}{predicted[key]:8.3f} s predicted", highlight=False)


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def demo() -> None:
    models = models_folder()
    await make_model(models)
    with tempfile.TemporaryDirectory(prefix="forebay-demo-") as folder:
        state = State(Path(folder))
        async with started(state, free_port(), models):
            await workers_ready(state)
            await ask(state)


async def stay(port: int) -> None:
    models = models_folder()
    await make_model(models)
    state = State.find(None)
    async with started(state, port, models) as process:
        await workers_ready(state)
        out.print(f"▸ the page: {state.gateway()}/ui")
        out.print('▸ ask it: .venv/bin/forebay invoke smollm2 "Hello"    stop it: Ctrl-C')
        if await process.wait():
            raise DemoFailed(f"`forebay up` ended with status {process.returncode}")


async def until_signalled(work: Coroutine[None, None, None]) -> int:
    """Do the work, or end it in good order at SIGINT or SIGTERM; the number of the signal, or 0. A second one changes
    nothing here: `forebay up` has Ctrl-C, too, and then waits for nobody's answer."""
    task = asyncio.create_task(work)
    signals: list[int] = []

    def end(number: int) -> None:
        if not signals:
            task.cancel()
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return signals[0] if signals else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m forebay_cli.demo", description=__doc__)
    parser.add_argument(
        "--stay", action="store_true", help="start everything and stay until Ctrl-C, without a question"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of the gateway with --stay (default 8080)")
    given = parser.parse_args()
    try:
        number = asyncio.run(until_signalled(stay(given.port) if given.stay else demo()))
    except (DemoFailed, InvokeFailed, OperatorAway, NothingRuns, coldstart.NoColdStart) as error:
        out.print(f"demo: {error}", style="red", markup=False)
        sys.exit(1)
    out.print("▸ stopped; nothing is left running")
    if number and not given.stay:  # which is ended by one
        sys.exit(128 + number)


if __name__ == "__main__":
    main()
