"""Reading by range through obstore: errors in our words, tried again while they may pass, never a foreign text.

What obstore says of an error may hold a signed address or a header, so of it only a kind and an HTTP status are kept.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
import structlog
from obstore import exceptions
from obstore.store import HTTPStore, S3Store

from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    CHECKSUM_MISMATCH,
    INVALID_CHECKPOINT,
    SOURCE_UNAVAILABLE,
    UNAUTHORIZED,
    CheckpointError,
)
from forebay_worker.artifact.remote import Chunk

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, RetryConfig

log = structlog.get_logger(__name__)

PATIENCE = 30.0
LOOK_PATIENCE = 8.0
"""Seconds for which a read of weights, or anything that an inspection waits for, is tried again."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 4.0

RETRY: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}  # ours also covers broken bodies
CONNECT, SILENCE, REQUEST = timedelta(seconds=5), timedelta(seconds=15), timedelta(seconds=180)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """``tag`` changes whenever the object does; empty when the server tells nothing of the kind."""

    name: str
    size: int
    tag: str


class Unavailable(CheckpointError):
    """It may pass."""


def client_options(address: str, headers: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> ClientConfig:
    """How to speak to ``address``: over plain http only if it says so, trusting what ``SSL_CERT_FILE`` adds."""
    options: ClientConfig = {
        "allow_http": address.startswith("http://"),
        "connect_timeout": CONNECT,
        "read_timeout": SILENCE,
        "timeout": REQUEST,
        "user_agent": "forebay",
    }
    if headers:
        options["default_headers"] = dict(headers)
    if bundle := environ.get("SSL_CERT_FILE"):
        try:
            options["root_certificate"] = Path(bundle).read_bytes()
        except OSError as error:
            raise CheckpointError(
                SOURCE_UNAVAILABLE, f"SSL_CERT_FILE {bundle}: cannot be read ({error.strerror})"
            ) from None
    return options


class Store:
    """A folder of objects. ``what`` is how people know it. Thread-safe."""

    def __init__(self, what: str, store: HTTPStore | S3Store) -> None:
        self._what = what
        self._store = store

    def read(self, name: str, begin: int, end: int, tag: str = "") -> Chunk:
        """Raises CheckpointError, ChecksumMismatch when the object is not the one of ``tag`` any more."""

        def once() -> Chunk:
            result = obstore.get(self._store, name, options={"range": (begin, end)})
            self._compare(name, tag, result.meta)
            content = memoryview(result.bytes())
            if content.nbytes != end - begin:
                raise Unavailable(SOURCE_UNAVAILABLE, f"{self._what}: {name} came cut short")
            return content

        return self._persist(name, once, PATIENCE)

    def whole(self, name: str, limit: int, tag: str = "") -> Chunk:
        def once() -> Chunk:
            result = obstore.get(self._store, name)
            if result.meta["size"] > limit:
                raise CheckpointError(INVALID_CHECKPOINT, f"{self._what}: {name} has more than {limit} bytes")
            self._compare(name, tag, result.meta)
            return memoryview(result.bytes())

        return self._persist(name, once)

    def look(self, name: str) -> Found | None:
        """What is there under ``name``; None = nothing. Asks for a byte, since not every server answers HEAD."""

        def once() -> Found:
            return _found(name, obstore.get(self._store, name, options={"range": (0, 1)}).meta)

        try:
            return self._persist(name, once)
        except CheckpointError as error:
            if error.reason == ARTIFACT_NOT_FOUND:
                return None
            raise

    def list(self) -> list[Found]:
        """Of S3: the objects right below the prefix. Raises CheckpointError."""

        def once() -> list[Found]:
            objects = obstore.list_with_delimiter(self._store)["objects"]
            return [_found(str(meta["path"]).rpartition("/")[2], meta) for meta in objects]

        return self._persist("", once)

    def _compare(self, name: str, tag: str, meta: Any) -> None:
        if tag and _found(name, meta).tag != tag:
            raise CheckpointError(CHECKSUM_MISMATCH, f"{self._what}: {name} has changed since it was inspected")

    def _persist(self, name: str, once: Callable[[], T], patience: float = LOOK_PATIENCE) -> T:
        """Call until it succeeds, fails for good or patience ends."""
        what = f"{self._what}: {name}" if name else self._what
        until = time.monotonic() + min(patience, PATIENCE)
        for wait in waits():
            try:
                return once()
            except (exceptions.BaseError, OSError) as error:
                refused = _translated(what, error)
            except Unavailable as error:
                refused = error
            if not isinstance(refused, Unavailable) or time.monotonic() + wait > until:
                # Neither cause nor context: their texts may hold what must not be logged.
                raise CheckpointError(refused.reason, refused.message) from None
            log.warning("source.retry", what=what, reason=refused.message)
            time.sleep(wait)
        raise AssertionError("waits() does not end")


def waits() -> Iterator[float]:
    """Seconds between tries: longer and longer, up to a limit."""
    wait = FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT)


def _found(name: str, meta: Any) -> Found:
    changed = meta["last_modified"].timestamp()  # 1970 stands for "not told"
    return Found(name, meta["size"], meta["e_tag"] or (f"changed {changed:.0f}" if changed else ""))


def _translated(what: str, error: Exception) -> CheckpointError:
    match error:
        case FileNotFoundError() | exceptions.NotFoundError():
            return CheckpointError(ARTIFACT_NOT_FOUND, f"{what}: not found")
        case exceptions.UnauthenticatedError() | exceptions.PermissionDeniedError() | PermissionError():
            return CheckpointError(
                UNAUTHORIZED, f"{what}: may not be read with these credentials (spec.model.credentials)"
            )
        case exceptions.NotSupportedError():
            return CheckpointError(INVALID_CHECKPOINT, f"{what}: the server does not answer requests for byte ranges")
    status = re.search(r"status code: (\d{3})", str(error))
    if status and status[1].startswith("4") and status[1] not in ("408", "416", "425", "429"):
        return CheckpointError(INVALID_CHECKPOINT, f"{what}: the server answers {status[1]}")
    why = f"the server answers {status[1]}" if status else "the server cannot be reached, or the connection broke"
    return Unavailable(SOURCE_UNAVAILABLE, f"{what}: {why}")
