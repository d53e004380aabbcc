"""The files of a checkpoint, open for reading: found changed, short or gone, they are refused by name."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from forebay_worker.artifact.artifact import AHEAD, SHORT, Artifact, Span
from forebay_worker.artifact.errors import INVALID_CHECKPOINT, CheckpointError
from forebay_worker.load.tensors import Stamp


class Source:
    """Opens each file once, and looks first whether it is still the one that was inspected. For one thread.

    Of files that come from elsewhere, what is read is brought first, and what was said to be read next is on its way
    meanwhile: so it is the order of loading that decides what is fetched when."""

    def __init__(self, stamps: Mapping[Path, Stamp], artifact: Artifact | None = None) -> None:
        self._stamps = stamps
        self._artifact = artifact
        self._leased = False
        self._next: deque[tuple[str, int]] = deque()
        self._asked: dict[tuple[str, int], Future[None]] = {}
        self._open: dict[Path, int] = {}

    def expect(self, spans: Iterable[Span]) -> None:
        """These will be read, in this order. Raises CheckpointError when there is no room for them."""
        if self._artifact is None:
            return
        self._lease(self._artifact)
        missing = self._artifact.missing(spans)
        self._artifact.room(missing)
        self._next = deque(missing)

    def here(self, file: Path, offset: int, nbytes: int) -> bool:
        """Whether these bytes are in the file already."""
        return self._artifact is None or not self._artifact.missing([(file, offset, offset + nbytes)])

    def coming(self, file: Path, offset: int, nbytes: int, arrived: Callable[[], None]) -> bool:
        """Whether these bytes are on their way and not here yet; ``arrived`` is then called, by any thread, when there
        are more of them. Raises CheckpointError, also when they could not be had."""
        if self._artifact is None:
            return False
        self._lease(self._artifact)
        missing = self._artifact.missing([(file, offset, offset + nbytes)])
        for block in missing:
            future = self._asked.get(block)
            if future is not None and future.done():
                future.result()
            if future is None or future.done():
                future = self._asked[block] = self._artifact.fetch(*block)
                future.add_done_callback(lambda _: arrived())
        self._ahead(self._artifact, missing)
        return bool(missing)

    def bring(self, file: Path, offset: int, nbytes: int) -> None:
        """Return when these bytes are in the file. Raises CheckpointError."""
        if self._artifact is None:
            return
        self._lease(self._artifact)
        missing = self._artifact.missing([(file, offset, offset + nbytes)])
        # What is wanted now goes first; then as much of what comes next as keeps the way busy.
        for block in missing:
            self._artifact.fetch(*block)
        self._ahead(self._artifact, missing)
        self._artifact.bring(file, offset, offset + nbytes)

    def scatter(self, file: Path, ranges: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its offset. Short ranges of what is not here come alone, all at once, without the
        blocks around them. Raises CheckpointError."""
        ranges = [(offset, buffer) for offset, buffer in ranges if buffer.nbytes]
        apart = []
        if self._artifact is not None:
            self._lease(self._artifact)
            apart = [
                (offset, buffer)
                for offset, buffer in ranges
                if buffer.nbytes <= SHORT and self._artifact.missing([(file, offset, offset + buffer.nbytes)])
            ]
            bounds = [(offset, offset + buffer.nbytes) for offset, buffer in apart]
            for (_, buffer), content in zip(apart, self._artifact.direct(file, bounds), strict=True):
                buffer[:] = content
        for offset, buffer in ranges:
            if (offset, buffer) not in apart:
                self.read(file, offset, [buffer])

    def descriptor(self, file: Path) -> int:
        """Raises CheckpointError when the file is gone or is another one now."""
        if file in self._open:
            return self._open[file]
        if self._artifact is not None:
            self._lease(self._artifact)
            self._artifact.make(file)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(INVALID_CHECKPOINT, f"{file}: cannot be read ({error.strerror})") from error
        self._open[file] = descriptor
        found = os.fstat(descriptor)
        stamp = self._stamps[file]
        if found.st_size != stamp.size or stamp.mtime_ns not in (None, found.st_mtime_ns):
            raise CheckpointError(INVALID_CHECKPOINT, f"{file}: has changed since it was inspected")
        return descriptor

    def read(self, file: Path, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers one after the other from ``offset``. Raises CheckpointError when the file ends before."""
        self.bring(file, offset, sum(buffer.nbytes for buffer in buffers))
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
        self._next.clear()
        self._asked.clear()
        if self._artifact is not None and self._leased:
            self._leased = False
            self._artifact.let_go()

    def _ahead(self, artifact: Artifact, missing: Collection[tuple[str, int]]) -> None:
        self._next = deque(block for block in self._next if block not in missing)
        for block in tuple(self._next)[:AHEAD]:
            artifact.fetch(*block)

    def _lease(self, artifact: Artifact) -> None:
        if not self._leased:
            artifact.take()
            self._leased = True
