"""Nothing is lost when a worker dies: the same tokens, each once, whoever is killed and whenever."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from local.reference import Reference
from local.system import System, function, pieces, running, write

PROMPT = "The history of the water wheel began"
TOKENS = 48


def kill(seen: dict[str, Any], names: list[str]) -> None:
    for worker in seen["workers"]:
        if worker["name"] in names:
            os.kill(worker["pid"], signal.SIGKILL)


def stage_workers(seen: dict[str, Any]) -> list[str]:
    """Workers of the pipeline that serves, first stage first, head last."""
    formed = [pipeline for pipeline in seen["pipelines"] if pipeline["phase"] == "Formed"]
    return [stage["worker"] for stage in min(formed, key=lambda pipeline: len(pipeline["stages"]))["stages"]]


async def ask(system: System, when: asyncio.Event, after: int) -> str:
    """One streamed answer; sets ``when`` once ``after`` pieces are there."""
    got: list[str] = []
    async with system.client() as client:
        async for piece in pieces(client, "smollm2", PROMPT, max_tokens=TOKENS):
            got.append(piece)
            if len(got) >= after:
                when.set()
    when.set()
    return "".join(got)


async def whole(system: System, workers: int) -> None:
    """As many live workers as before, each attached again."""
    await system.until(
        lambda seen: sum(worker["state"] == "Ready" for worker in seen["workers"]) == workers, "the dead are replaced"
    )


@pytest.fixture
def file(tmp_path: Path, smollm2: Path) -> Path:
    return write(tmp_path / "functions.yaml", function("smollm2", smollm2))


async def test_killed_while_loading(tmp_path: Path, file: Path, real: Reference) -> None:
    with running(tmp_path / "state", [file], workers=4, link_rate="60MB/s") as system:
        await system.ready(4)
        for victims in ([0], [3], [1, 2]):
            asking = asyncio.create_task(ask(system, asyncio.Event(), 1))
            seen = await system.until(
                lambda seen: any(len(pipeline["stages"]) == 4 for pipeline in seen["pipelines"]), "a pipeline of four"
            )
            chosen = stage_workers(seen)
            kill(seen, [chosen[number] for number in victims])
            real.check(await asking, PROMPT, TOKENS, chat=False)
            await whole(system, 4)
            await to_zero(system, file)


async def to_zero(system: System, file: Path) -> None:
    """Pin to zero and back, so that the next request is cold again."""
    body = file.read_text()
    file.write_text(body.replace("spec:\n", "spec:\n  replicas: 0\n"))
    await system.until(
        lambda seen: not seen["pipelines"] and all(not worker["holds"] for worker in seen["workers"]), "pinned to zero"
    )
    file.write_text(body)
    await system.until(lambda seen: seen["functions"][0]["state"] == "Idle", "unpinned")


async def test_killed_while_decoding(tmp_path: Path, file: Path, real: Reference) -> None:
    # No device holds the whole model: it stays a pipeline, so that any stage can die while decoding.
    more = ("--device-memory", "450MB")
    with running(tmp_path / "state", [file], workers=4, link_rate="400MB/s", more=more) as system:
        await system.ready(4)
        for victims in (slice(0, 1), slice(-1, None), slice(0, 2)):
            begun = [asyncio.Event() for _ in range(3)]
            asking = [asyncio.create_task(ask(system, event, 8 + 4 * number)) for number, event in enumerate(begun)]
            await asyncio.gather(*(event.wait() for event in begun))
            seen = await system.look()
            kill(seen, stage_workers(seen)[victims])
            for answer in await asyncio.gather(*asking):
                real.check(answer, PROMPT, TOKENS, chat=False)
            await whole(system, 4)
