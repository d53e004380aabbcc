"""The team of OpenMP threads that share one operation's work: the device thread's, and nobody else's.

A team waits for its last thread at the end of every operation, and that one for a core. Where others are busy on the
cores, with copies of units that land or with a neighbour's steps, a smaller one is faster: two workers of two cores
that answer at once write 24 tokens a second alone, and wrote 11 in teams of two.

libgomp keeps a team for each thread that ever ran a parallel operation. With more threads in teams than there are
cores it stops spinning between operations, everywhere in the process, and each of the hundreds of a step sleeps and is
woken: one look-up of embedding rows on the loader thread made every later token take twice as long.
"""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from forebay_worker.cores import Share


def compute_alone() -> None:
    """From now on the calling thread runs its operations by itself. For every thread but the device's that touches
    tensors; before its first operation."""
    torch.get_num_threads()  # sets this thread's number to the process's, once; later it would undo what follows
    threadpool_limits(1, user_api="openmp")  # of this thread: libgomp keeps the number by thread


class Team:
    """How many threads share an operation of the thread that calls this, the device's: its part of ``threads``."""

    def __init__(self, threads: int, share: Share) -> None:
        self._threads = threads
        self._share = share
        self._now = 0

    def fit(self, *, copying: bool = False) -> None:
        """To be called before operations; costs next to nothing when nothing has changed. ``copying``: the loader
        thread takes a core."""
        self._share.work()
        self._set(max(1, (self._threads - copying) // (1 + self._share.busy_neighbours)))

    def alone(self) -> None:
        """One thread does it all, until `fit` is called again."""
        self._set(1)

    def rest(self) -> None:
        """Nothing is left to compute for now."""
        self._share.rest()

    def _set(self, wanted: int) -> None:
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted
