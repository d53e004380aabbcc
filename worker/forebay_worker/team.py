"""The team of OpenMP threads that share one operation's work: the device thread's, and nobody else's.

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
