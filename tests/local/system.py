"""A running Forebay for tests: the real processes, started as a user starts them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import yaml

from device import KIND
from forebay_cli import view
from forebay_cli.state import NothingRuns, State

PATIENCE = 90.0
"""Seconds until a condition that must come is called a failure."""


def free_port() -> int:
    """None of those that outgoing connections get: whoever is to listen there may be long in coming."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def function(name: str, folder: Path, **spec: Any) -> dict[str, Any]:
    """The body of an LLMFunction for the checkpoint in ``folder``; ``spec`` adds to it."""
    spec.setdefault("scaling", {"minReplicas": 0, "maxReplicas": 4, "scaleToZeroGracePeriodSeconds": 600})
    model = {"uri": f"file://{folder}", **spec.pop("model", {})}
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "LLMFunction",
        "metadata": {"name": name},
        "spec": {"model": model, **spec},
    }


def write(path: Path, *bodies: dict[str, Any]) -> Path:
    """Put the bodies into one file, in one step as editors do."""
    temporary = path.with_suffix(".writing")
    temporary.write_text(yaml.safe_dump_all(bodies))
    temporary.rename(path)
    return path


@dataclass
class System:
    """One `forebay up` (or the processes alone) and how to look at it."""

    state: State
    port: int
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        options = {"base_url": f"{self.url}/v1", "max_retries": 0, **options}
        return openai.AsyncOpenAI(api_key="none", timeout=PATIENCE, **options)

    async def look(self) -> view.View:
        return await view.look(self.state.operator())

    async def until(self, holds: Callable[[view.View], object], what: str, timeout: float = PATIENCE) -> view.View:
        """The first snapshot for which ``holds`` is true. Fails with the last one seen."""
        last: view.View = {}

        async def wait() -> view.View:
            nonlocal last
            while True:
                with contextlib.suppress(view.OperatorAway, NothingRuns):
                    async for last in view.watch(self.state.operator()):
                        if holds(last):
                            return last
                await asyncio.sleep(0.05)

        try:
            return await asyncio.wait_for(wait(), timeout)
        except TimeoutError:
            shown = {key: value for key, value in last.items() if key in ("functions", "workers", "pipelines")}
            logs = "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.logs())
            raise AssertionError(f"never saw: {what}\n{json.dumps(shown, indent=1)[:6000]}\n{logs}") from None

    def logs(self) -> list[Path]:
        return sorted((self.state.folder / "logs").glob("*.log"))

    async def ready(self, workers: int, functions: int = 1, timeout: float = PATIENCE) -> view.View:
        """All workers attached, and prepared for all functions."""

        def holds(seen: view.View) -> bool:
            backbones = {item["backbone"] for item in seen["functions"]}
            warm = [worker for worker in seen["workers"] if worker["state"] == "Ready"]
            return (
                (len(warm), len(seen["functions"])) == (workers, functions)
                and "" not in backbones
                and all(backbones <= set(worker["prepared"]) for worker in warm)
            )

        return await self.until(holds, f"{workers} workers prepared for {functions} functions", timeout)

    async def to_zero(self, file: Path) -> None:
        """Pin the one function of ``file`` to zero and back: nothing is held, and the next request is cold."""
        (body,) = yaml.safe_load_all(file.read_text())
        write(file, {**body, "spec": {**body["spec"], "replicas": 0}})
        await self.until(
            lambda seen: (
                seen["functions"][0]["state"] == "Suspended"
                and not seen["pipelines"]
                and not any(worker["holds"] for worker in seen["workers"])
            ),
            "pinned to zero",
        )
        write(file, body)
        await self.until(lambda seen: seen["functions"][0]["state"] == "Idle", "unpinned")

    def children(self) -> list[psutil.Process]:
        """Every process of this system that lives now."""
        found: list[psutil.Process] = []
        for process in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                found += [parent, *parent.children(recursive=True)]
        return found

    def start(self, name: str, *words: str, script: Path | None = None, **environ: str) -> subprocess.Popen[str]:
        """Run `forebay` (or ``script`` in its place) with these words, its output in the logs."""
        folder = self.state.folder
        program = [str(script)] if script else ["-m", "forebay_cli"]
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        with (folder / "logs" / f"test-{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *program, *words, "--state", str(folder)],
                stdout=log,
                stderr=log,
                text=True,
                env={**os.environ, **environ},
            )
        self.processes[name] = process
        return process

    def stop(self, name: str, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Signal one process and wait for its end; its exit status."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{name} did not end within {timeout:.0f} s of signal {number}") from None


def wait_for(holds: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Poll something outside the operator's view."""
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    folder: Path,
    files: list[Path],
    *,
    workers: int = 4,
    link_rate: str | None = None,
    device: str = KIND,
    more: tuple[str, ...] = (),
    script: Path | None = None,
) -> Iterator[System]:
    """`forebay up` with these files, ended afterwards with nothing left."""
    system = System(State(folder), free_port())
    words = [
        "up",
        *(word for path in files for word in ("-f", str(path))),
        "--workers",
        str(workers),
        "--device",
        device,
    ]
    words += ["--port", str(system.port), *(["--link-rate", link_rate] if link_rate else []), *more]
    system.start("up", *words, script=script)
    try:
        wait_for(lambda: listens(system.port) or system.processes["up"].poll() is not None, "the gateway listens")
        assert system.processes["up"].poll() is None, (folder / "logs" / "test-up.log").read_text()
        yield system
    finally:
        left = system.children()
        for name in list(system.processes):
            system.stop(name)
        _, alive = psutil.wait_procs(left, timeout=PATIENCE)
        for process in alive:
            process.kill()
        assert not alive, f"left running: {alive}"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def chat(client: openai.AsyncOpenAI, model: str, prompt: str, **options: Any) -> str:
    """The text of one streamed chat answer."""
    options.setdefault("temperature", 0)
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True, **options
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def pieces(client: openai.AsyncOpenAI, model: str, prompt: str, **options: Any) -> AsyncIterator[str]:
    """The pieces of one streamed completion as they come."""
    options.setdefault("temperature", 0)
    stream = await client.completions.create(model=model, prompt=prompt, stream=True, **options)
    async for chunk in stream:
        if chunk.choices:
            yield chunk.choices[0].text
