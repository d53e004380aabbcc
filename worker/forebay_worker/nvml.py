"""NVIDIA's management library: which GPUs are here and how much of them is free, without touching CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """``uuid`` is "GPU-…"; bytes are of the whole card, whoever uses them."""

    uuid: str
    name: str
    total_bytes: int
    free_bytes: int


def inventory() -> tuple[Gpu, ...]:
    """The GPUs of this machine; empty without driver or library."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(_text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle)), memory.total, memory.free)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
