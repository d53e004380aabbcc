"""From a uri to an artifact: resolve it, find or make its place in the cache, bring its small files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from forebay_worker.artifact import endpoints, small
from forebay_worker.artifact.access import Access
from forebay_worker.artifact.artifact import Artifact
from forebay_worker.artifact.cache import Cache
from forebay_worker.artifact.errors import (
    ARTIFACT_NOT_FOUND,
    CHECKSUM_MISMATCH,
    SOURCE_UNAVAILABLE,
    CheckpointError,
)
from forebay_worker.artifact.listing import Listing, check_digest
from forebay_worker.artifact.remote import Remote
from forebay_worker.artifact.uri import Scheme, Uri


def obtain(uri: Uri, access: Access | None, environ: Mapping[str, str] = os.environ) -> Artifact:
    """``uri`` is not file://. Without ``access`` nothing is asked of the net and no thread starts: it must be in the
    cache, with its small files. Raises CheckpointError."""
    cache = Cache.from_env(environ)
    if access is None:
        return _cached(uri, cache, environ)
    if access.revision and uri.revision and not access.pinned:
        raise CheckpointError(
            ARTIFACT_NOT_FOUND, f"{uri}: has a revision, and {access.revision} is given too: it must be one of the two"
        )
    remote = REMOTES[uri.scheme](uri, access, environ)
    listing = (
        cache.find(endpoints.identity(uri, environ), access.revision) if access.pinned and access.revision else None
    )
    if listing is None:
        listing = remote.resolve()
        if access.pinned and access.revision not in ("", listing.revision):
            raise CheckpointError(CHECKSUM_MISMATCH, f"{uri} has changed since it was inspected")
    if not access.pinned:
        _prove(listing, remote)
    place = cache.place(listing)
    place.check(time.time())
    with cache.lease(place):
        cache.make_room(sum(file.size for file in small.missing(place, listing)), place)
        small.fetch(place, listing, remote)
    check_digest(uri.identity, access.digest, small.digest(place, listing))
    return Artifact(cache, place, listing, remote, access)


def _prove(listing: Listing, remote: Remote) -> None:
    """Read a byte of the weights as whoever asks: the listing of a gated repository is everybody's, and the cache may
    hold what was fetched with another's token. Raises CheckpointError."""
    file = next((file for file in listing.weights if file.size), None)
    if file is not None:
        remote.read(file, 0, 1)


def _cached(uri: Uri, cache: Cache, environ: Mapping[str, str]) -> Artifact:
    identity = endpoints.identity(uri, environ)
    listing = cache.find(identity, uri.revision) or cache.find(identity, "")  # a branch's name says no state
    if listing is None or small.missing(cache.place(listing), listing):
        raise CheckpointError(SOURCE_UNAVAILABLE, f"{uri}: not in the cache")
    place = cache.place(listing)
    place.check(time.time())
    return Artifact(cache, place, listing, None)


# Imported when they are needed: they cost a tenth of a second each, and most nodes use one.


def _hub(uri: Uri, access: Access, environ: Mapping[str, str]) -> Remote:
    from forebay_worker.artifact.hub import Hub

    return Hub(uri, access, environ)


def _objects(uri: Uri, access: Access, environ: Mapping[str, str]) -> Remote:
    from forebay_worker.artifact.objects import Objects

    return Objects(uri, access, environ)


def _web(uri: Uri, access: Access, environ: Mapping[str, str]) -> Remote:
    from forebay_worker.artifact.web import Web

    return Web(uri, access, environ)


REMOTES: Mapping[Scheme, Callable[[Uri, Access, Mapping[str, str]], Remote]] = {
    Scheme.HF: _hub,
    Scheme.S3: _objects,
    Scheme.HTTPS: _web,
}
