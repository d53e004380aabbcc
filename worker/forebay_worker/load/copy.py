"""How the bytes of a unit get onto a device: mapped, copied into an arena, or through pinned memory onto a GPU.

One seam for the loader thread: make a filling of a unit, ``move`` its pieces, ``finish`` or ``abandon`` it. May not
live here: order, pacing, the ledger.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from forebay_worker.artifact.errors import INVALID_CHECKPOINT, CheckpointError
from forebay_worker.device import Device
from forebay_worker.load.plan import Part, Piece, pieces
from forebay_worker.load.source import Source
from forebay_worker.load.tensors import ITEM_BYTES, TensorSlice, layout

SERIAL_ELEMENTS = 32768  # torch converts this many without waking its thread pool, which belongs to the device thread
MADV_POPULATE_READ = 22  # Linux 5.14


@dataclass(frozen=True)
class Ready:
    """A unit on the device, by state-dict name. ``event`` is recorded after its last copy (CUDA), else None."""

    tensors: dict[str, torch.Tensor]
    event: torch.cuda.Event | None = None


class Filling(Protocol):
    """One unit on its way. Used by the loader thread alone."""

    def move(self, piece: Piece) -> None:
        """Bring the bytes of one piece over. Raises CheckpointError."""

    def finish(self) -> Ready: ...

    def abandon(self) -> None:
        """Return when nothing writes into the unit's memory any more."""


class Mapped:
    """CPU, as stored: private mappings of the file, so that nothing is copied and processes share the page cache.

    ``move`` brings pages in ahead of the first use. The kernel does it on request, and reports a file that was cut
    short; touching a page of such a file would kill the process. A file that is still coming is mapped too: a page is
    brought in after its bytes were written, and nobody looks at it before."""

    def __init__(self, tensors: Sequence[TensorSlice], source: Source) -> None:
        self._tensors = tensors
        self._source = source
        self._views: dict[int, torch.Tensor] = {}
        self._runs: list[tuple[Piece, int]] = []
        for run in pieces(tensors, float("inf")):
            skip = run.offset % mmap.ALLOCATIONGRANULARITY
            # Private and writable: torch wants memory that it might write to; nobody does.
            memory = mmap.mmap(
                source.descriptor(run.file), run.nbytes + skip, offset=run.offset - skip, access=mmap.ACCESS_COPY
            )
            if source.here(run.file, run.offset, run.nbytes):
                memory.madvise(mmap.MADV_WILLNEED)
            self._runs.append((run, torch.frombuffer(memory, dtype=torch.uint8).data_ptr() + skip))
            self._view(run, memory, skip)

    def _view(self, run: Piece, memory: mmap.mmap, begin: int) -> None:
        for part in run.parts:
            tensor = self._tensors[part.tensor]
            dtype = getattr(torch, tensor.dtype)
            count = part.nbytes // dtype.itemsize
            flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=begin)
            self._views[part.tensor] = flat.view(tensor.shape)
            begin += part.nbytes

    def move(self, piece: Piece) -> None:
        run, address = next((run, address) for run, address in self._runs if _within(piece, run))
        self._source.bring(piece.file, piece.offset, piece.nbytes)
        _populate(piece, address + piece.offset - run.offset)

    def finish(self) -> Ready:
        return Ready({tensor.name: self._views[index] for index, tensor in enumerate(self._tensors)})

    def abandon(self) -> None:
        self._views.clear()


class Arena:
    """CPU: read into one arena per unit; through a small reused buffer where the dtype is converted."""

    def __init__(self, device: Device, tensors: Sequence[TensorSlice], dtype: str, source: Source) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self._source = source
        self._arena = Slots(device, tensors, dtype)

    def move(self, piece: Piece) -> None:
        if all(self._tensors[part.tensor].dtype == self._dtype for part in piece.parts):
            self._source.read(piece.file, piece.offset, [_bytes(self._arena.raw(part)) for part in piece.parts])
            return
        staging = torch.empty(piece.nbytes, dtype=torch.uint8)
        self._source.read(piece.file, piece.offset, [_bytes(staging)])
        begin = 0
        for part in piece.parts:
            stored = _typed(staging, begin, part.nbytes, self._tensors[part.tensor].dtype)
            target = self._arena.converted(part)
            for index in range(0, len(stored), SERIAL_ELEMENTS):
                target[index : index + SERIAL_ELEMENTS].copy_(stored[index : index + SERIAL_ELEMENTS])
            begin += part.nbytes

    def finish(self) -> Ready:
        return Ready(self._arena.tensors())

    def abandon(self) -> None:
        """Nothing to wait for: reads are synchronous."""


class PinnedRing:
    """A few pinned buffers in turn. One is read into again when the copy out of it is done.

    disk ─▶ │ 0 │ 1 │ 2 │ 3 │ ─▶ copy stream ─▶ arena
                  ▲ next: waits for the event of its last copy
    """

    BUFFERS = 4
    BYTES = 8 << 20

    def __init__(self, device: Device) -> None:
        self.stream = torch.cuda.Stream(device.torch_device)
        self._buffers = [torch.empty(self.BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(self.BUFFERS)]
        self._copied = [torch.cuda.Event() for _ in range(self.BUFFERS)]
        self._staging = [device.arena(self.BYTES) for _ in range(self.BUFFERS)]
        self._next = 0

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.Event]:
        """(host buffer, device buffer, event to record after the last copy out of either)."""
        index, self._next = self._next, (self._next + 1) % self.BUFFERS
        self._copied[index].synchronize()  # returns at once when never recorded
        return self._buffers[index], self._staging[index], self._copied[index]


class Pinned:
    """CUDA: disk to pinned buffer to one arena per unit on the copy stream; dtypes are converted on the device."""

    def __init__(
        self, device: Device, tensors: Sequence[TensorSlice], dtype: str, source: Source, ring: PinnedRing
    ) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self._source = source
        self._ring = ring
        self._device = device
        self._arena = Slots(device, tensors, dtype)
        # The pool may hand out memory that a step, queued on the compute stream, still reads.
        ring.stream.wait_stream(torch.cuda.current_stream(device.torch_device))

    def move(self, piece: Piece) -> None:
        host, staging, copied = self._ring.take()
        self._source.read(piece.file, piece.offset, [_bytes(host[: piece.nbytes])])
        with torch.cuda.stream(self._ring.stream):
            begin = 0
            for part in piece.parts:
                stored = self._tensors[part.tensor].dtype
                bytes_here = host[begin : begin + part.nbytes]
                if stored == self._dtype:
                    self._arena.raw(part).copy_(bytes_here, non_blocking=True)
                else:
                    # A part may begin at any byte of the piece, a typed view only at a whole element.
                    staging[: part.nbytes].copy_(bytes_here, non_blocking=True)
                    self._arena.converted(part).copy_(_typed(staging, 0, part.nbytes, stored), non_blocking=True)
                begin += part.nbytes
            copied.record(self._ring.stream)

    def finish(self) -> Ready:
        event = torch.cuda.Event()
        event.record(self._ring.stream)
        return Ready(self._arena.tensors(), event)

    def abandon(self) -> None:
        self._ring.stream.synchronize()


class Slots:
    """An arena and where the tensors of a unit lie in it."""

    def __init__(self, device: Device, tensors: Sequence[TensorSlice], dtype: str) -> None:
        self._tensors = tensors
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._offsets, total = layout(tensors, dtype)
        self._arena = device.arena(total)

    def raw(self, part: Part) -> torch.Tensor:
        """The bytes of a part whose dtype is not converted: uint8 [nbytes]."""
        begin = self._offsets[part.tensor] + part.start
        return self._arena[begin : begin + part.nbytes]

    def converted(self, part: Part) -> torch.Tensor:
        """The elements that a part becomes: [elements] of the arena's dtype."""
        stored = ITEM_BYTES[self._tensors[part.tensor].dtype]
        begin = self._offsets[part.tensor] + part.start // stored * self._dtype.itemsize
        return self._arena[begin : begin + part.nbytes // stored * self._dtype.itemsize].view(self._dtype)

    def tensors(self) -> dict[str, torch.Tensor]:
        views = {}
        for tensor, begin in zip(self._tensors, self._offsets, strict=True):
            size = tensor.nbytes // ITEM_BYTES[tensor.dtype] * self._dtype.itemsize
            views[tensor.name] = self._arena[begin : begin + size].view(self._dtype).view(tensor.shape)
        return views


def read_rows(source: Source, table: TensorSlice, ids: Sequence[int]) -> torch.Tensor:
    """Bytes of the rows ``ids`` of a [rows, width] table: uint8 [len(ids), bytes]. Neighbouring rows are one read."""
    width = table.nbytes // table.shape[0]
    wanted = sorted(set(ids))
    host = torch.empty((len(wanted), width), dtype=torch.uint8)
    first, ranges = 0, []
    for last in range(len(wanted)):
        if last + 1 == len(wanted) or wanted[last + 1] != wanted[last] + 1:
            ranges.append((table.offset + wanted[first] * width, _bytes(host[first : last + 1].flatten())))
            first = last + 1
    source.scatter(table.file, ranges)
    place = {row: index for index, row in enumerate(wanted)}
    return host[torch.tensor([place[row] for row in ids], dtype=torch.long)]


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.numpy().data


def _typed(buffer: torch.Tensor, begin: int, nbytes: int, dtype: str) -> torch.Tensor:
    """Elements that begin at any byte of a CPU or CUDA uint8 buffer."""
    kind: torch.dtype = getattr(torch, dtype)
    part = buffer[begin : begin + nbytes]
    if begin % kind.itemsize:
        part = part.clone()
    return part.view(kind)


def _within(piece: Piece, run: Piece) -> bool:
    return piece.file == run.file and run.offset <= piece.offset < run.offset + run.nbytes


_libc = ctypes.CDLL(None, use_errno=True)  # a foreign call lets other threads run, which mmap.madvise does not
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _populate(piece: Piece, address: int) -> None:
    """Map the pages of a piece now. A kernel that cannot leaves them to the first use."""
    begin = address - address % mmap.PAGESIZE
    if _libc.madvise(begin, address + piece.nbytes - begin, MADV_POPULATE_READ) == 0:
        return
    # EINVAL is an older kernel's answer; these say that the file ends before, or that the disk cannot read it.
    if ctypes.get_errno() in (errno.EFAULT, errno.EIO):
        raise CheckpointError(INVALID_CHECKPOINT, f"{piece.file}: bytes from {piece.offset} cannot be read any more")
