"""What this machine can do at most, measured as a model would use it: with torch, and with its threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

PASSES = 16
READ = 1 << 30  # bytes: no cache holds them
SIDE = 2048


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes read from memory, and floating-point operations in fp32, each per second."""

    bytes_read: float
    operations: float

    def tokens(self, batch: int, weights: int) -> float:
        """A second, at most, of a model with so many bytes of fp32 weights. A step reads them once for the whole batch,
        and multiplies and adds each once for every token."""
        return min(batch * self.bytes_read / weights, self.operations / (2 * weights / 4))


def measure() -> Peak:
    """The best of several passes: a large matrix times a vector, and a matrix times another."""
    matrix, vector = torch.ones(READ // 4 // SIDE, SIDE), torch.ones(SIDE)
    square = torch.ones(SIDE, SIDE)
    return Peak(READ / _best(lambda: matrix @ vector), 2 * SIDE**3 / _best(lambda: square @ square))


def _best(run: Callable[[], object]) -> float:
    """Seconds."""

    def timed() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return min(timed() for _ in range(PASSES))
