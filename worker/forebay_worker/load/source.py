"""The files of a checkpoint, open for reading: found changed, short or gone, they are refused by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from forebay_worker.load.checkpoint import INVALID_CHECKPOINT, CheckpointError, Stamp


class Source:
    """Opens each file once, and looks first whether it is still the one that was inspected. For one thread."""

    def __init__(self, stamps: Mapping[Path, Stamp]) -> None:
        self._stamps = stamps
        self._open: dict[Path, int] = {}

    def descriptor(self, file: Path) -> int:
        """Raises CheckpointError when the file is gone or is another one now."""
        if file in self._open:
            return self._open[file]
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(INVALID_CHECKPOINT, f"{file}: cannot be read ({error.strerror})") from error
        self._open[file] = descriptor
        found = os.fstat(descriptor)
        if Stamp(found.st_size, found.st_mtime_ns) != self._stamps[file]:
            raise CheckpointError(INVALID_CHECKPOINT, f"{file}: has changed since it was inspected")
        return descriptor

    def read(self, file: Path, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other from ``offset``. Raises CheckpointError when the file ends before."""
        descriptor = self.descriptor(file)
        left = [buffer for buffer in buffers if buffer.nbytes]
        while left:
            try:
                got = os.preadv(descriptor, left, offset)
            except OSError as error:
                raise CheckpointError(INVALID_CHECKPOINT, f"{file}: reading failed ({error.strerror})") from error
            if got == 0:
                raise CheckpointError(INVALID_CHECKPOINT, f"{file}: ends at byte {offset}, while being loaded")
            offset += got
            while left and got >= left[0].nbytes:
                got -= left.pop(0).nbytes
            if got:
                left[0] = left[0][got:]

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
