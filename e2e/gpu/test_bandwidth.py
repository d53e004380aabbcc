"""How fast bytes get onto a card through the loader, beside how fast the card takes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from forebay_worker.model.make import write_random
from local.system import function, running, write

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


async def test_bandwidth_beside_the_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2.2 GB, just written and so in the page cache: what is left is the loader's own way."""
    folder = tmp_path / "llama"
    write_random("llama-1.1b", folder, seed=1, tiny=False, dtype="bf16")
    file = write(tmp_path / "functions.yaml", function("llama", folder, scaling={"minReplicas": 1, "maxReplicas": 1}))
    with running(tmp_path / "state", [file], workers=1, device="cuda") as system:
        seen = await system.until(all_read, "the whole model on the card", timeout=240)
    loader, copy = seen["workers"][0]["linkBytesPerSecond"], peak()
    with capsys.disabled():
        print(f"\nhost to device: loader {loader / 1e9:.1f} GB/s, one pinned copy {copy / 1e9:.1f} GB/s")


def all_read(seen: dict[str, Any]) -> bool:
    read = [worker["bytesRead"] for worker in seen["workers"]]
    return bool(seen["models"]) and read == [seen["models"][0]["totalBytes"]]


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
