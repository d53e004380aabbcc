"""A folder of sockets that the pods of a node share: what those that are gone have left there goes too."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

YOUNG_SECONDS = 60.0
"""A socket is bound a moment before it listens: one that is so young may be about to."""


def clear(folder: Path) -> None:
    """Remove the sockets on which nobody listens. Raises OSError when the folder cannot be read."""
    now = time.time()
    for path in folder.glob("*.sock"):
        try:
            if now - path.stat().st_mtime > YOUNG_SECONDS and not _listens(path):
                path.unlink()
        except OSError:
            continue  # gone meanwhile, or not ours to remove


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
    return True
