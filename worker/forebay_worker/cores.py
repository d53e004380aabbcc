"""Who computes at this moment on the cores that workers of one zygote share.

    worker   0  1  2  3
    busy     ■  □  ■  □      a byte each, in memory that all of them map: 2 of 4 compute, so each has half the cores

A hint, not a lock: a byte that is out of date for a moment costs some speed and nothing else.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence


class Cores:
    """Of ``workers``, to which ``sets`` of cores are dealt out in turn. Made before the fork."""

    def __init__(self, workers: int, sets: int = 1) -> None:
        self._busy = mmap.mmap(-1, workers)
        self._workers = workers
        self._sets = sets

    def share(self, worker: int) -> Share:
        """For worker ``worker``."""
        same = range(worker % self._sets, self._workers, self._sets)
        return Share(self._busy, worker, tuple(each for each in same if each != worker))

    def died(self, worker: int) -> None:
        """It may have been killed while it computed, and who replaces it may be long in coming."""
        self._busy[worker] = 0


class Share:
    """One worker's view."""

    def __init__(self, busy: mmap.mmap, mine: int, others: Sequence[int]) -> None:
        self._busy = busy
        self._mine = mine
        self._others = others

    def work(self) -> None:
        self._busy[self._mine] = 1

    def rest(self) -> None:
        self._busy[self._mine] = 0

    @property
    def busy_neighbours(self) -> int:
        return sum(self._busy[each] for each in self._others)
