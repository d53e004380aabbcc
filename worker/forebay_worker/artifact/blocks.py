"""One file that comes in blocks: a sparse file of full size, and which of its blocks are there.

The processes of a node share both. A block is fetched by who holds its lock, a lock of the kernel on one byte of the
state file, which ends with its holder: a worker that was killed leaves nothing behind but a block to be fetched.

    data   │▓▓▓▓│    │▓▓▓▓│▓▓▓▓│    │▓│      written first
    state   1    0    1    1    0    1  ┆boot id┆      then this byte; blocks of an earlier boot do not count, since
                                                       the order in which a disk writes is not ours
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from forebay_worker.artifact.errors import (
    CACHE_FULL,
    INVALID_CHECKPOINT,
    SOURCE_UNAVAILABLE,
    CheckpointError,
)

BLOCK_BYTES = 8 << 20
PRESENT = b"\1"
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
VERIFYING = 1 << 40
"""The byte whose lock is held by who hashes the file."""
OPENING = VERIFYING + 1
OPENING_PATIENCE = 60.0


class Blocks:
    """Thread-safe, but of one process each block may be claimed by one thread at a time only."""

    def __init__(self, data: Path, state: Path, size: int, block_bytes: int = BLOCK_BYTES) -> None:
        """Makes both files when they are not there. Raises CheckpointError when the disk refuses."""
        self.path = data
        self.size = size
        self.block_bytes = block_bytes
        self.count = -(-size // block_bytes)
        self._known = bytearray(self.count)
        self._fds: list[int] = []
        self._open = threading.Lock()
        with disk(data):
            for path in (data, state):
                self._fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            self._data, self._state = self._fds
            self._begin()

    def _begin(self) -> None:
        boot = BOOT_FILE.read_bytes().strip()
        until = time.monotonic() + OPENING_PATIENCE
        while not self.claim(OPENING):  # held for the microseconds of what follows
            if time.monotonic() > until:
                raise CheckpointError(SOURCE_UNAVAILABLE, f"{self.path}: another process has kept it locked")
            time.sleep(0.001)
        try:
            if os.pread(self._state, len(boot), self.count) != boot:
                os.ftruncate(self._state, 0)
                os.pwrite(self._state, bytes(self.count) + boot, 0)
                os.ftruncate(self._data, 0)
            if os.fstat(self._data).st_size != self.size:
                os.ftruncate(self._data, self.size)
        finally:
            self.release(OPENING)

    def spanned(self, begin: int, end: int) -> range:
        """The blocks that bytes ``begin`` up to ``end`` lie in."""
        return range(begin // self.block_bytes, -(-min(end, self.size) // self.block_bytes))

    def bounds(self, index: int) -> tuple[int, int]:
        return index * self.block_bytes, min((index + 1) * self.block_bytes, self.size)

    def present(self, index: int) -> bool:
        if not self._known[index] and os.pread(self._state, 1, index) == PRESENT:
            self._known[index] = 1
        return bool(self._known[index])

    def missing(self, begin: int, end: int) -> list[int]:
        return [index for index in self.spanned(begin, end) if not self.present(index)]

    def claim(self, index: int) -> bool:
        """Whether nobody else holds it; then it is ours until ``release``."""
        try:
            fcntl.fcntl(self._state, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK, index))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def release(self, index: int) -> None:
        fcntl.fcntl(self._state, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, index))

    def put(self, index: int, content: bytes | bytearray | memoryview) -> None:
        """Store a block that we hold. Raises CheckpointError when there is no room."""
        offset = index * self.block_bytes
        left = memoryview(content)
        with disk(self.path):
            while left:
                written = os.pwrite(self._data, left, offset)
                left, offset = left[written:], offset + written
            os.pwrite(self._state, PRESENT, index)

    def read(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._data, nbytes, offset)

    def sync(self) -> None:
        with disk(self.path):
            os.fsync(self._data)

    def close(self) -> None:
        with self._open:
            while self._fds:
                os.close(self._fds.pop())

    def __del__(self) -> None:
        self.close()


def _lock(kind: int, index: int) -> bytes:
    """struct flock of 64-bit Linux: type, whence, start, length, pid."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, index, 1, 0)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Errors of the cache's disk in our words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(
                CACHE_FULL, f"{path.parent}: the disk is full; give the cache more room, or lower FOREBAY_CACHE_BYTES"
            ) from None
        raise CheckpointError(INVALID_CHECKPOINT, f"{path}: cannot be written ({error.strerror})") from error
