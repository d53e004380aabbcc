"""The small files of an artifact, fetched whole, and the digest that all of its files make."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping

from forebay_worker.artifact.artifact import fetched_total
from forebay_worker.artifact.cache import Place, lock, write
from forebay_worker.artifact.errors import CHECKSUM_MISMATCH, CheckpointError
from forebay_worker.artifact.listing import TEXT, WEIGHTS, File, Listing, manifest
from forebay_worker.artifact.remote import Chunk, Remote


def missing(place: Place, listing: Listing) -> list[File]:
    """Small files that are not in the cache."""
    small = [file for file in listing.files if not file.name.endswith(WEIGHTS)]
    return [file for file in small if not place.complete(file.name) or not (place.files / file.name).exists()]


def fetch(place: Place, listing: Listing, remote: Remote) -> None:
    """Bring the small files, one process of the node at a time. Raises CheckpointError."""
    if not missing(place, listing):
        return
    descriptor = os.open(place.folder / ".small", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock(descriptor, fcntl.LOCK_EX, place.folder)
        for file in missing(place, listing):
            content = remote.whole(file)
            _check(listing, file, content)
            fetched_total.inc(len(content))
            write(place.files / file.name, content)
            place.finish(file.name, hashlib.sha256(content).hexdigest())
    finally:
        os.close(descriptor)


def sums(place: Place, listing: Listing) -> Mapping[str, str]:
    """The sums that are known: told by the source, or hashed here."""
    known = {file.name: file.sha256 or place.complete(file.name) for file in listing.files}
    return {name: digest for name, digest in known.items() if digest}


def text_sums(place: Place, listing: Listing) -> dict[str, str]:
    """Of the files that say what text is to this model."""
    known = sums(place, listing)
    return {name: known[name] for name in TEXT if name in known}


def digest(place: Place, listing: Listing) -> str:
    """Of the manifest; empty as long as a sum is missing."""
    known = sums(place, listing)
    return manifest(known) if len(known) == len(listing.files) else ""


def _check(listing: Listing, file: File, content: Chunk) -> None:
    blob = b"blob %d\0" % len(content)
    wrong = (
        len(content) != file.size
        or (file.sha256 and hashlib.sha256(content).hexdigest() != file.sha256)
        or (file.git and hashlib.sha1(blob + bytes(content), usedforsecurity=False).hexdigest() != file.git)
    )
    if wrong:
        raise CheckpointError(
            CHECKSUM_MISMATCH, f"{listing.identity}: {file.name} is not what the source's own listing says"
        )
