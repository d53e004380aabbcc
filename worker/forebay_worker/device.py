"""The device that a worker owns: what it is called, what it computes on, its memory ledger and its arenas."""

from __future__ import annotations

import mmap
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from forebay_worker import nvml
from forebay_worker.memory import Memory, OutOfMemory, Reservation

__all__ = ["Device", "DeviceError", "Memory", "OutOfMemory", "Reservation", "blames_device", "lacks_memory"]

CPU_SHARE = 0.5  # of physical memory, for all workers of the machine together, when no budget is given
CONTEXT_BYTES = 600 << 20  # of a card, for each process on it: its context and the kernels it has loaded
STEP_BYTES = 1 << 30  # at least, beside the budget: a step's activations, and what the pool holds in pieces too small
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
DRIVER = re.compile(r"^(?:CUDA|CUDA driver|cuDNN) error: (?!CUBLAS_STATUS_(?:INVALID_VALUE|NOT_SUPPORTED)\b)")
"""How libraries of the driver begin what they say, but for complaints about what they were given."""
NO_MEMORY = re.compile(r"\bCU[A-Z]+_STATUS_ALLOC_FAILED\b")
NO_MEMORY_CODE = 2  # cudaErrorMemoryAllocation
GIVEN_CODES = frozenset({1, 9, 98, 209})  # invalid value, configuration or function, no kernel for this card


class DeviceError(Exception):
    """The device asked for is not here; the message says what is."""


@dataclass(frozen=True)
class Device:
    """``compute`` names the resources that computing here uses: workers that share one take turns. ``threads`` is how
    many CPU threads one operation may use. ``card`` is the whole card that a GPU is, or is a slice of."""

    kind: Literal["cpu", "cuda"]
    torch_device: torch.device
    name: str
    uuid: str
    memory: Memory
    compute: tuple[str, ...]
    threads: int
    card: str = ""

    @classmethod
    def open(
        cls, kind: Literal["auto", "cpu", "cuda"], memory_bytes: int | None, index: int, workers: int = 1
    ) -> Device:
        """The device of worker ``index`` of the ``workers`` on this machine; GPUs are dealt out in turn. Only after the
        fork. ``memory_bytes`` None = a share of what the machine or the card has. Raises DeviceError."""
        gpus = nvml.inventory() if kind != "cpu" else ()
        if gpus and torch.cuda.is_available():
            return cls._open_cuda(gpus, memory_bytes, index, workers)
        if kind == "cuda":
            raise DeviceError("--device cuda: this torch cannot use the GPU; use cpu or auto" if gpus else nvml.NO_GPU)
        return cls._open_cpu(memory_bytes, workers)

    @classmethod
    def _open_cpu(cls, memory_bytes: int | None, workers: int) -> Device:
        cores = sorted(os.sched_getaffinity(0))
        host = socket.gethostname()
        budget = int(physical_bytes() * CPU_SHARE) // workers if memory_bytes is None else memory_bytes
        return cls(
            kind="cpu",
            torch_device=torch.device("cpu"),
            name="cpu",
            uuid=f"{host}/cpu",
            memory=Memory(budget),
            compute=tuple(f"{host}/cpu{core}" for core in cores),
            threads=len(cores),
        )

    @classmethod
    def _open_cuda(cls, gpus: tuple[nvml.Gpu, ...], memory_bytes: int | None, index: int, workers: int) -> Device:
        torch.cuda.init()  # before it cards are counted, not what CUDA sees of them
        visible = torch.cuda.device_count()
        ordinal = index % visible
        torch.cuda.set_device(ordinal)
        # It makes a plan for each length it has not seen, and keeps it: with every token there is a new one.
        torch.backends.cuda.enable_cudnn_sdp(False)
        # CUDA_VISIBLE_DEVICES renumbers cards for torch, not for NVML: the uuid says which is which.
        properties = torch.cuda.get_device_properties(ordinal)
        uuid = f"GPU-{properties.uuid}"
        gpu = next((gpu for gpu in gpus if gpu.uuid == uuid), gpus[ordinal % len(gpus)])
        sharers = -(-workers // visible)
        free, total = torch.cuda.mem_get_info(ordinal)
        if gpu.uuid == uuid and gpu.free is not None:  # a slice has its own memory, of which the card knows nothing
            free = min(free, gpu.free)
        limit, budget = card_share(free, total, sharers)
        if memory_bytes is not None:
            limit, budget = max(limit, memory_bytes + STEP_BYTES), memory_bytes
        # There the pool gives back what it keeps, where neighbours on the card would find no memory.
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), ordinal)
        return cls(
            kind="cuda",
            torch_device=torch.device("cuda", ordinal),
            name=gpu.name or properties.name,
            uuid=uuid,
            memory=Memory(budget),
            compute=(uuid,),
            threads=1,
            card=gpu.uuid,
        )

    def enter(self) -> None:
        """To be called first by each thread that uses the device: CUDA's own choice is by thread, and is the first
        card, where a worker of another one would leave a context."""
        if self.kind == "cuda":
            torch.cuda.set_device(self.torch_device)

    def arena(self, nbytes: int) -> torch.Tensor:
        """Uninitialised uint8 [nbytes] on the device. Goes back to the system with the last view of it (CPU), or
        to torch's pool (CUDA, see ``trim``). Reserve in ``memory`` first: this does not."""
        if nbytes == 0 or self.kind == "cuda":
            return torch.empty(nbytes, dtype=torch.uint8, device=self.torch_device)
        # A mapping of its own, where malloc would keep what was freed. No huge pages: filling them took four times
        # the CPU time of small ones where it was measured (a guest whose host takes freed memory back).
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def trim(self) -> None:
        """Give pooled memory back, so that other workers of the same card can have it. After units were dropped."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()


def physical_bytes() -> int:
    """What this process may use at most: the machine's memory, or its container's limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def card_share(free: int, total: int, sharers: int) -> tuple[int, int]:
    """Bytes of a card for one of ``sharers`` processes: what its tensors may take at most, and the ledger's budget.
    ``free`` is what is left beside its own context."""
    limit = max(0, min(free, total // sharers - (CONTEXT_BYTES if sharers > 1 else 0)))
    return limit, max(0, limit - max(limit // 10, STEP_BYTES))


def lacks_memory(error: Exception) -> bool:
    """Whether a device had no memory for what was computed, be it the pool, the driver or a library that says so."""
    code = getattr(error, "error_code", None) if isinstance(error, torch.AcceleratorError) else None
    return (
        isinstance(error, torch.OutOfMemoryError)
        or code == NO_MEMORY_CODE
        or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None)
    )


def blames_device(error: Exception) -> bool:
    """Whether the driver says so, a device-side assert included: after it nothing computes in this process. Anything
    else that computing raises comes of the model or of our own code, and would on any device."""
    if lacks_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) not in GIVEN_CODES
    return isinstance(error, RuntimeError) and DRIVER.search(str(error)) is not None
