"""The team of OpenMP threads that share one operation's work: the device thread's, and nobody else's.

Where units that land are copied, the cores are busy with that, here and at the neighbours of a pipeline. A team waits
for its last thread at the end of every operation, and that one for a core: half the tokens of one thread alone.

libgomp keeps a team for each thread that ever ran a parallel operation. With more threads in teams than there are
cores it stops spinning between operations, everywhere in the process, and each of the hundreds of a step sleeps and is
woken: one look-up of embedding rows on the loader thread made every later token take twice as long.
"""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def compute_alone() -> None:
    """From now on the calling thread runs its operations by itself. For every thread but the device's that touches
    tensors; before its first operation."""
    torch.get_num_threads()  # sets this thread's number to the process's, once; later it would undo what follows
    threadpool_limits(1, user_api="openmp")  # of this thread: libgomp keeps the number by thread


class Team:
    """How many threads share an operation of the thread that calls this; the device's."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._now = 0

    def fit(self, *, loading: bool) -> None:
        """To be called before operations; costs nothing when nothing has changed."""
        wanted = 1 if loading else self._threads
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted
