"""Workers that are killed while somebody waits for an answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Collection
from typing import Any

from local.system import System, pieces

PROMPT = "The history of the water wheel began"
TOKENS = 48


def kill(seen: dict[str, Any], names: list[str], how: signal.Signals = signal.SIGKILL) -> set[int]:
    """The pids that were."""
    pids = {worker["pid"] for worker in seen["workers"] if worker["name"] in names}
    for pid in pids:
        os.kill(pid, how)
    return pids


def stage_workers(seen: dict[str, Any]) -> list[str]:
    """Workers of the pipeline that serves, first stage first, head last; none while none does."""
    formed = [pipeline for pipeline in seen["pipelines"] if pipeline["phase"] == "Formed"]
    shortest = min(formed, key=lambda pipeline: len(pipeline["stages"]), default={"stages": []})
    return [stage["worker"] for stage in shortest["stages"]]


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


async def whole(system: System, workers: int, dead: Collection[int]) -> None:
    """As many live workers as before, each attached again."""
    await system.until(
        lambda seen: (
            [worker["state"] for worker in seen["workers"]] == ["Ready"] * workers
            and not any(worker["pid"] in dead for worker in seen["workers"])
        ),
        "the dead are replaced",
    )
