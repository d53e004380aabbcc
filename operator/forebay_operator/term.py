"""The leader term: counts leaderships, so that no two operators ever name two pipelines alike."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Term:
    """A number that only grows, kept in a file and flushed to the disk before anybody hears of it."""

    def __init__(self, path: Path) -> None:
        """Begin a leadership: one above what the file says. Raises OSError where the file cannot be written."""
        self._path = path
        self.number = 0
        self._store(_read(path) + 1)

    def rise_above(self, obeyed: int) -> None:
        """Take the next term when a worker obeys a higher one: it would refuse every command of ours."""
        if obeyed > self.number:
            log.warning("a worker obeys a higher term", term=self.number, obeyed=obeyed)
            self._store(obeyed + 1)

    def _store(self, number: int) -> None:
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with draft.open("w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.number = number


def _read(path: Path) -> int:
    """A lost or damaged file costs nothing: the first report of a worker lifts the term above what it obeyed."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        log.warning("the term file is damaged and begins anew", path=str(path))
        return 0
