"""Hashes the files of an artifact in the background as they become complete, and sounds the alarm.

One process of a node hashes a file; the others learn of it by the markers. Bytes that no unit needs, and that nobody
therefore asked for, are fetched at the end: without them there is no sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from prometheus_client import Counter

from forebay_worker.artifact import small
from forebay_worker.artifact.artifact import Artifact, Span
from forebay_worker.artifact.blocks import VERIFYING, Blocks
from forebay_worker.artifact.errors import CHECKSUM_MISMATCH, CheckpointError
from forebay_worker.artifact.listing import check_digest

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
CHUNK = 1 << 20
NICE = 10

verified_total = Counter("forebay_worker_verified_bytes_total", "Bytes of complete files that were hashed")
damaged_total = Counter("forebay_worker_damaged_total", "Checkpoints found damaged")


class Watch:
    """Keeps an artifact in the cache while a worker holds it, and sees to it that it is verified.

    ``spans`` are the bytes that units need; ``damaged`` is called once, from a thread, when something is wrong."""

    def __init__(self, artifact: Artifact, spans: Sequence[Span], damaged: Callable[[CheckpointError], None]) -> None:
        """Raises CheckpointError."""
        self._artifact = artifact
        self._damaged = damaged
        self._needed: dict[str, list[Span]] = {}
        for span in spans:
            self._needed.setdefault(span[0].name, []).append(span)
        self._stop = threading.Event()
        artifact.take()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns at once; the thread ends soon after."""
        self._stop.set()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # computing goes first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while not self._stop.is_set() and not self._look():
                self._stop.wait(LOOK_SECONDS)
            self._stop.wait()
        except CheckpointError as error:
            damaged_total.inc()
            self._damaged(error)
            self._stop.wait()
        finally:
            self._artifact.let_go()

    def _look(self) -> bool:
        """Whether all is verified. Raises CheckpointError when something turned out to be damaged."""
        artifact = self._artifact
        artifact.place.check(time.time())
        for name, spans in self._needed.items():
            if not artifact.place.complete(name) and not artifact.missing(spans):
                self._complete(name, spans)
        if not all(map(artifact.place.complete, self._needed)):
            return False
        self._check_manifest()
        return True

    def _complete(self, name: str, spans: Sequence[Span]) -> None:
        blocks = self._artifact.blocks(name)
        if not blocks.claim(VERIFYING):
            return
        try:
            path = spans[0][0]
            self._artifact.room(self._artifact.missing([(path, 0, blocks.size)]))
            self._artifact.bring(path, 0, blocks.size)
        except CheckpointError as error:
            log.warning("verify.later", file=name, reason=error.message)
            return
        else:
            self._verify(name, blocks)
        finally:
            blocks.release(VERIFYING)

    def _verify(self, name: str, blocks: Blocks) -> None:
        artifact = self._artifact
        found = self._hash(blocks)
        wanted = next(file.sha256 for file in artifact.listing.files if file.name == name)
        if found and wanted and found != wanted:
            self._condemn(f"{artifact.listing.identity}: {name} has sha256 {found}, but must have {wanted}", [name])
        elif found:
            blocks.sync()
            artifact.place.finish(name, found)
            log.info("verified", source=artifact.listing.identity, file=name, sha256=found)

    def _hash(self, blocks: Blocks) -> str:
        """Empty when we were stopped."""
        digest = hashlib.sha256()
        for offset in range(0, blocks.size, CHUNK):
            if self._stop.is_set():
                return ""
            digest.update(blocks.read(offset, CHUNK))
        verified_total.inc(blocks.size)
        return digest.hexdigest()

    def _check_manifest(self) -> None:
        artifact = self._artifact
        try:
            check_digest(
                artifact.listing.identity, artifact.access.digest, small.digest(artifact.place, artifact.listing)
            )
        except CheckpointError as error:
            self._condemn(error.message, [])

    def _condemn(self, message: str, names: list[str]) -> None:
        log.error("damaged", source=self._artifact.listing.identity, reason=message)
        self._artifact.place.condemn(message, time.time(), names)
        raise CheckpointError(CHECKSUM_MISMATCH, message)
