"""The same checks as on the CPU, on the real device: tokens, bytes, kills; and how fast bytes get there."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import real_smollm2
from forebay_worker.model.make import write_random
from local.reference import Reference
from local.system import chat, function, pieces, running, write

pytestmark = pytest.mark.gpu

PROMPT = "Why is the sky blue?"
TOKENS = 32


@pytest.fixture(scope="session")
def real() -> Reference:
    reference = Reference(real_smollm2())
    reference.model.to("cuda")
    return reference


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "functions.yaml", function("smollm2", real_smollm2()))


async def test_a_pipeline_of_four_on_one_card(tmp_path: Path, file: Path, real: Reference) -> None:
    """Four workers share the GPU; emulated links make the loading slow enough to serve during it."""
    more = ("--device-memory", "6GB")
    with running(tmp_path / "state", [file], workers=4, link_rate="100MB/s", more=more, device="cuda") as system:
        await system.ready(4)
        async with system.client() as client:
            answers = await asyncio.gather(*(chat(client, "smollm2", PROMPT, max_tokens=TOKENS) for _ in range(4)))
        for answer in answers:
            real.check(answer, PROMPT, TOKENS, chat=True)
        seen = await system.look()
        cold = seen["coldStarts"][0]
        assert len(cold["stages"]) == 4
        total = seen["models"][0]["totalBytes"]
        assert all(worker["bytesRead"] <= total for worker in seen["workers"])


async def test_a_killed_worker_costs_no_token(tmp_path: Path, file: Path, real: Reference) -> None:
    more = ("--device-memory", "6GB")
    with running(tmp_path / "state", [file], workers=4, link_rate="100MB/s", more=more, device="cuda") as system:
        await system.ready(4)

        async def ask() -> str:
            async with system.client() as client:
                return "".join([piece async for piece in pieces(client, "smollm2", PROMPT, max_tokens=TOKENS)])

        asking = asyncio.create_task(ask())
        seen = await system.until(lambda seen: bool(seen["pipelines"]), "a pipeline")
        kill_head(seen)
        real.check(await asking, PROMPT, TOKENS, chat=False)


def kill_head(seen: dict[str, Any]) -> None:
    head = seen["pipelines"][0]["stages"][-1]["worker"]
    os.kill(next(worker["pid"] for worker in seen["workers"] if worker["name"] == head), signal.SIGKILL)


async def test_bandwidth_beside_the_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A 2.2 GB model over the real link; printed beside a plain pinned copy of the same bytes."""
    folder = tmp_path / "llama"
    write_random("llama-1.1b", folder, seed=1, tiny=False, dtype="bf16")
    file = write(tmp_path / "functions.yaml", function("llama", folder, scaling={"minReplicas": 1, "maxReplicas": 1}))
    with running(tmp_path / "state", [file], workers=1, device="cuda") as system:
        seen = await system.until(lambda seen: seen["functions"][0]["ready"] == 1, "loaded", timeout=240)
        units = seen["coldStarts"][0]["units"] if seen["coldStarts"] else []
        total = seen["models"][0]["totalBytes"]
        assert seen["workers"][0]["bytesRead"] == total
        rate = seen["workers"][0]["linkBytesPerSecond"]
    with capsys.disabled():
        print(
            f"\nhost to device: loader {rate / 1e9:.1f} GB/s over {len(units)} units, "
            f"pinned copy {peak() / 1e9:.1f} GB/s"
        )


def peak(size: int = 1 << 30) -> float:
    """Bytes per second of one large pinned copy, best of five."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, size / (time.perf_counter() - began))
    return best
