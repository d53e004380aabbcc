"""NVIDIA's management library: which GPUs are here, without touching CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NO_GPU = (
    "--device cuda: NVML finds no GPU; use cpu or auto, and in a pod a runtime class that brings the driver "
    "(spec.runtimeClassName of the WorkerPool, nvidia for example)"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole card, however it is cut. ``uuid`` is "GPU-…", ``free`` in bytes. What the library does not tell is empty,
    or None."""

    uuid: str
    name: str
    free: int | None = None


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
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    def ask(query: Callable[[Any], Any]) -> Any:
        try:
            value = query(nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError:  # a card that is lost, or one of which a container may not know everything
            return None
        return value.decode() if isinstance(value, bytes) else value

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    return Gpu(
        ask(nvml.nvmlDeviceGetUUID) or "", ask(nvml.nvmlDeviceGetName) or "", None if memory is None else memory.free
    )
