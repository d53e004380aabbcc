"""Where a checkpoint's tensors lie, and where they go. Values only, so that what is decided about them stays pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 64  # bytes; every tensor of an arena begins at a multiple: cache lines, and any vector load
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # those we compute in
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Where a tensor lies: ``nbytes`` from ``offset`` of ``file``, row-major. ``name`` is that of the state dict."""

    name: str
    file: Path
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was like when it was inspected: another one under its name is another model. ``mtime_ns`` is None
    for one that is still coming: its name in the cache says what it is."""

    size: int
    mtime_ns: int | None


def layout(tensors: Sequence[TensorSlice], dtype: str) -> tuple[tuple[int, ...], int]:
    """Where each tensor begins in an arena that holds them all in ``dtype``, and the bytes of that arena."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        size = math.prod(tensor.shape) * ITEM_BYTES[dtype]
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return tuple(offsets), end
