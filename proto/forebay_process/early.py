"""Being told to end before one has begun."""

from __future__ import annotations

import os
import signal


def end_at_sigterm() -> None:
    """Until a handler of one's own takes its place. The first process of a container is not ended by a signal that it
    has no handler for: told to end while it imports, which takes seconds on a busy machine, it would stay for all of
    its grace period."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
