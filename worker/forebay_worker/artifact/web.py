"""https://: a folder on a web server that answers requests for byte ranges. Files are found by their known names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from obstore.store import HTTPStore

from forebay_worker.artifact.access import Access, Secret
from forebay_worker.artifact.errors import ARTIFACT_NOT_FOUND, INVALID_CHECKPOINT, UNAUTHORIZED, CheckpointError
from forebay_worker.artifact.listing import (
    CONFIG,
    INDEX,
    MOST_FILES,
    SHARD,
    SMALL,
    SMALL_BYTES,
    SUMS,
    WHOLE,
    File,
    Listing,
    read_sums,
    select,
)
from forebay_worker.artifact.remote import Chunk
from forebay_worker.artifact.store import RETRY, Found, Store, client_options
from forebay_worker.artifact.uri import Uri

SUMS_BYTES = 1 << 20
AT_ONCE = 8


class Web:
    """One folder. The secret is a bearer token, or a whole Authorization value that begins with Basic or Bearer."""

    def __init__(self, uri: Uri, access: Access, environ: Mapping[str, str] = os.environ) -> None:
        self._identity = uri.identity
        options = client_options(uri.identity, authorization(access.credentials), environ)
        self._store = Store(uri.identity, HTTPStore(uri.identity, client_options=options, retry_config=RETRY))

    def resolve(self) -> Listing:
        if self._store.look(CONFIG) is None:
            raise CheckpointError(ARTIFACT_NOT_FOUND, f"{self._identity}: no {CONFIG}, so no checkpoint")
        found = self._look((*SMALL, WHOLE, SUMS))
        if INDEX in found:
            found |= self._look(self._shards(found[INDEX]))
        sums = {}
        if SUMS in found:
            sums = read_sums(bytes(self._store.whole(SUMS, SUMS_BYTES)).decode(errors="replace"))
        files = [File(entry.name, entry.size, sums.get(entry.name, ""), "", entry.tag) for entry in found.values()]
        return select(self._identity, files)

    def read(self, file: File, begin: int, end: int) -> Chunk:
        return self._store.read(file.name, begin, end, file.tag)

    def whole(self, file: File) -> Chunk:
        return self._store.whole(file.name, SMALL_BYTES, file.tag)

    def _look(self, names: Iterable[str]) -> dict[str, Found]:
        with ThreadPoolExecutor(AT_ONCE, "look") as pool:
            found = pool.map(self._look_for, names)
        return {entry.name: entry for entry in found if entry is not None}

    def _look_for(self, name: str) -> Found | None:
        """A server may answer "forbidden" for what is not there; the folder itself was readable a moment ago."""
        try:
            return self._store.look(name)
        except CheckpointError as error:
            if error.reason == UNAUTHORIZED:
                return None
            raise

    def _shards(self, index: Found) -> list[str]:
        try:
            names = set(json.loads(bytes(self._store.whole(INDEX, SMALL_BYTES, index.tag)))["weight_map"].values())
            safe = all(SHARD.fullmatch(name) for name in names)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            names, safe = set(), False
        if not safe:
            raise CheckpointError(
                INVALID_CHECKPOINT, f"{self._identity}: weight_map of {INDEX} must map tensor names to *.safetensors"
            )
        if len(names) > MOST_FILES:
            raise CheckpointError(
                INVALID_CHECKPOINT, f"{self._identity}: {INDEX} names {len(names)} files; at most {MOST_FILES}"
            )
        return sorted(names)


def authorization(secret: Secret) -> dict[str, str]:
    value = secret.value.strip()
    if not value:
        return {}
    return {"authorization": value if value.startswith(("Basic ", "Bearer ")) else f"Bearer {value}"}
