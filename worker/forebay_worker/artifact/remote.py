"""The seam between the cache and where files come from."""

from __future__ import annotations

from typing import Protocol

from forebay_worker.artifact.listing import File, Listing

Chunk = bytes | bytearray | memoryview


class Remote(Protocol):
    """One source, with the credentials to read it. Used by several threads at once. Raises CheckpointError only."""

    def resolve(self) -> Listing:
        """What is there now. Takes a round trip or a few."""

    def read(self, file: File, begin: int, end: int) -> Chunk:
        """Bytes ``begin`` up to ``end`` of ``file``, which is still the one that was listed."""

    def whole(self, file: File) -> Chunk: ...
