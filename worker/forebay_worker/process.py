"""This process as the kernel sees it: how much memory it has, and giving some back."""

from __future__ import annotations

import ctypes
from pathlib import Path


def memory() -> tuple[int, int]:
    """Bytes resident: now, and at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    return _bytes(fields["VmRSS"]), _bytes(fields["VmHWM"])


def give_memory_back() -> None:
    """Return freed heap to the kernel, which allocators keep for later. Does nothing where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _bytes(field: str) -> int:
    return int(field.split()[0]) * 1024
