"""Emulated links: byte k of a busy link is there at t0 + k / rate, without drift, also when several processes share it.

May not live here: reading. A link only says when bytes that were asked for are available.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable

CATCH_UP_SECONDS = 1.0  # a reader that was stopped longer than this does not get the bytes it slept through at once


class Bucket:
    """A rate in bytes per second that all forks of the process which made it share.

    The state is one number, when the bucket is next free, in a mapping shared over fork. A record lock guards it: the
    kernel drops it with the process that holds it, so a SIGKILL at any moment wedges nobody. The number is written at
    once and last, so it is never half of something."""

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"a link needs a rate above 0 bytes per second, not {rate}")
        self.rate = float(rate)
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            self._file = os.dup(file.fileno())  # without a name, it ends with the last process that has it open
        weakref.finalize(self, os.close, self._file)
        self._state = mmap.mmap(self._file, mmap.PAGESIZE)
        self._threads = threading.Lock()  # record locks do not keep threads of one process apart

    def reserve(self, asked: float, nbytes: int) -> float:
        """When the last of ``nbytes`` asked for at ``asked`` is through; both in seconds of the monotonic clock."""
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                (free_at,) = struct.unpack_from("d", self._state)
                free_at = max(free_at, asked) + nbytes / self.rate
                struct.pack_into("d", self._state, 0, free_at)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        return float(free_at)


class Link:
    """One reader's path: its own bucket and one shared with others, either may be absent. For one thread.

    A busy reader asks for the next bytes the moment the last ones were available, however late it really woke up: that
    is what keeps the rate exact. ``idle`` says that it had nothing to ask for."""

    def __init__(self, own: Bucket | None, shared: Bucket | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = tuple(bucket for bucket in (own, shared) if bucket)
        self._clock = clock
        self._available: float | None = None

    @property
    def paced(self) -> bool:
        return bool(self._buckets)

    @property
    def rate(self) -> float:
        """Bytes per second of an emulated link that nobody else uses; 0 = not emulated."""
        return min((bucket.rate for bucket in self._buckets), default=0.0)

    def charge(self, nbytes: int) -> float:
        """Ask for bytes; returns the monotonic time at which they are available."""
        now = self._clock()
        if not self._buckets:
            return now
        asked = now if self._available is None else max(self._available, now - CATCH_UP_SECONDS)
        self._available = max(bucket.reserve(asked, nbytes) for bucket in self._buckets)
        return self._available

    def idle(self) -> None:
        self._available = None

    def wait(self, until: float, stop: threading.Event) -> bool:
        """Wait for a time that ``charge`` returned. False when ``stop`` was set before."""
        while (left := until - self._clock()) > 0:
            if stop.wait(left):
                return False
        return True

    def pace(self, nbytes: int, stop: threading.Event) -> bool:
        """``charge`` and ``wait`` in one."""
        return self.wait(self.charge(nbytes), stop)
