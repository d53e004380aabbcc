"""The node's cache: a folder for each state of each source, shared by the workers of the node, within a budget.

    models/<key>/listing.json     what there is, frozen
                 used             its time: last use; its lock, shared: in use
                 files/<name>     small ones whole, weights in blocks; what loaders read
                 blocks/<name>    which blocks are there
                 heads/<name>     the beginning of a file of weights: its header
                 complete/<name>  all of them, hashed: the sum
                 damaged          it was not what it should be, and why

Folders beside these, of other names, are people's own and left alone. May not live here: the net.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import Counter

from forebay_api.quantities import parse_size
from forebay_worker.artifact.blocks import disk
from forebay_worker.artifact.errors import (
    CACHE_FULL,
    CHECKSUM_MISMATCH,
    INVALID_CHECKPOINT,
    SOURCE_UNAVAILABLE,
    CheckpointError,
)
from forebay_worker.artifact.listing import Listing

log = structlog.get_logger(__name__)

FREE_SHARE = 0.05
"""Of the disk, left free where no budget is set."""
POD_FREE_SHARE = 0.2
"""The same in a pod: below 10 or 15 % the kubelet evicts pods from its node."""
DAMAGE_SECONDS = 300.0
"""So long is a source that sent wrong bytes not believed again."""
LOCK_PATIENCE = 60.0
KEY = re.compile(r"[0-9a-f]{32}")

evicted_total = Counter("forebay_worker_cache_evicted_bytes_total", "Bytes of models removed from the cache")


@dataclass(frozen=True, slots=True)
class Place:
    """One state of one source in the cache."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def state(self, name: str) -> Path:
        return self.folder / "blocks" / name

    def head(self, name: str) -> Path:
        return self.folder / "heads" / name

    def complete(self, name: str) -> str:
        """The sum of a file that is all there and was hashed; else empty."""
        try:
            return (self.folder / "complete" / name).read_text()
        except OSError:
            return ""

    def finish(self, name: str, digest: str) -> None:
        write(self.folder / "complete" / name, digest)

    def damage(self, now: float) -> str:
        """In words, what was wrong with it; empty if nothing is, or it was too long ago to count."""
        try:
            found = json.loads((self.folder / "damaged").read_text())
            return str(found["message"]) if now - found["at"] < DAMAGE_SECONDS else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def check(self, now: float) -> None:
        """Raises CheckpointError where it is damaged."""
        if wrong := self.damage(now):
            raise CheckpointError(CHECKSUM_MISMATCH, wrong)

    def condemn(self, message: str, now: float, names: list[str]) -> None:
        """Say so to all, and remove these files."""
        write(self.folder / "damaged", json.dumps({"message": message, "at": now}))
        for name in names:
            self.head(name).unlink(missing_ok=True)
        self.remove(names)

    def remove(self, names: list[str]) -> None:
        for name in names:
            for path in (self.folder / "complete" / name, self.state(name), self.files / name):
                path.unlink(missing_ok=True)

    @property
    def used_at(self) -> float:
        try:
            return (self.folder / "used").stat().st_mtime
        except OSError:
            return 0.0

    def weights(self) -> list[str]:
        return [path.name for path in self.files.glob("*.safetensors")]


class Cache:
    """``root`` is the folder ``models``; ``budget`` in bytes, None = as much as leaves ``free_share`` of the disk."""

    def __init__(self, root: Path, budget: int | None = None, free_share: float = FREE_SHARE) -> None:
        self.root = root
        self._budget = budget
        self._free_share = free_share

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Cache:
        """By ``FOREBAY_CACHE`` (default ``$XDG_CACHE_HOME/forebay``) and ``FOREBAY_CACHE_BYTES``, else by whether this
        is a pod. Raises CheckpointError."""
        base = environ.get("FOREBAY_CACHE")
        folder = Path(base) if base else Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
        wanted = environ.get("FOREBAY_CACHE_BYTES")
        free_share = POD_FREE_SHARE if environ.get("FOREBAY_POD_UID") else FREE_SHARE
        try:
            return cls(folder / "models", parse_size(wanted) if wanted else None, free_share)
        except ValueError as error:
            raise CheckpointError(CACHE_FULL, f"FOREBAY_CACHE_BYTES: {error}") from None

    def owns(self, folder: Path) -> bool:
        """Whether ``folder``, wherever links to it lie, is one that a cache made or lies in one: what was fetched with
        somebody's credentials."""
        root, real = self.root.resolve(), folder.resolve()
        return real.is_relative_to(root) and any(KEY.fullmatch(part) for part in real.relative_to(root).parts[:1])

    def place(self, listing: Listing) -> Place:
        """The folder of a listing, made if need be."""
        folder = self.root / listing.key
        with disk(folder):
            for name in ("files", "blocks", "complete"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / "used").touch()
        if not (folder / "listing.json").exists():
            write(folder / "listing.json", listing.to_json())
        return Place(folder)

    def find(self, identity: str, revision: str) -> Listing | None:
        """The state of a source that is known here: of ``revision``, or, if that is empty, the last one used."""
        if revision:
            return self._listing(self.root / Listing(identity, revision, ()).key)
        found = [(place.used_at, listing) for place in self._places() if (listing := self._listing(place.folder))]
        mine = [(at, listing) for at, listing in found if listing.identity == identity]
        return max(mine, key=lambda entry: entry[0])[1] if mine else None

    @contextlib.contextmanager
    def lease(self, place: Place) -> Iterator[None]:
        """Nothing of ``place`` is evicted meanwhile. Raises CheckpointError when it cannot be had."""
        with disk(place.folder):
            place.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place.folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock(descriptor, fcntl.LOCK_SH, place.folder)
            os.utime(descriptor)
            yield
        finally:
            os.close(descriptor)

    def make_room(self, wanted: int, keep: Place) -> None:
        """Evict what is not in use, longest unused first, until ``wanted`` more bytes fit. Raises
        CheckpointError."""
        if wanted <= 0:
            return
        with self._locked():
            if (lack := wanted - self._room()) <= 0:
                return
            for place in sorted(self._places(), key=lambda place: place.used_at):
                if place.folder != keep.folder:
                    lack -= self._evict(place)
                if lack <= 0:
                    return
        raise CheckpointError(
            CACHE_FULL,
            f"{self.root}: {wanted} bytes are needed, {lack} more than there is room for, and everything else is in "
            "use; raise FOREBAY_CACHE_BYTES or give the cache a larger disk",
        )

    def _room(self) -> int:
        """Bytes that may still be written."""
        stat = os.statvfs(self.root)
        if self._budget is None:
            return int(stat.f_bavail * stat.f_frsize - self._free_share * stat.f_blocks * stat.f_frsize)
        return min(self._budget - sum(map(_allocated, self._places())), stat.f_bavail * stat.f_frsize)

    def _evict(self, place: Place) -> int:
        """Bytes won; 0 if it is in use. The small files stay: who has them open goes on, and fetches weights again."""
        try:
            descriptor = os.open(place.folder / "used", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        else:
            before = _allocated(place)
            place.remove(place.weights())
            won = before - _allocated(place)
            if won:
                evicted_total.inc(won)
                log.info("cache.evicted", folder=str(place.folder), bytes=won)
            return won
        finally:
            os.close(descriptor)

    def _places(self) -> list[Place]:
        try:
            return [Place(path) for path in self.root.iterdir() if KEY.fullmatch(path.name)]
        except OSError:
            return []

    def _listing(self, folder: Path) -> Listing | None:
        try:
            return Listing.from_json((folder / "listing.json").read_text())
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with disk(self.root):
            descriptor = os.open(self.root / ".room", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock(descriptor, fcntl.LOCK_EX, self.root)
            yield
        finally:
            os.close(descriptor)


def lock(descriptor: int, kind: int, what: Path) -> None:
    """Wait for an advisory lock, which ends with whoever holds it. Raises CheckpointError."""
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise CheckpointError(
                    SOURCE_UNAVAILABLE, f"{what}: another process has kept it locked for {LOCK_PATIENCE:.0f} s"
                ) from None
            time.sleep(0.005)
        except OSError as error:
            raise CheckpointError(INVALID_CHECKPOINT, f"{what}: cannot be locked ({error.strerror})") from error
        else:
            return


def write(path: Path, content: str | bytes | bytearray | memoryview) -> None:
    """All of it or nothing, also over a loss of power. Raises CheckpointError when the disk refuses."""
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
        try:
            with open(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise


def _allocated(place: Place) -> int:
    """Bytes on the disk, not the sizes of sparse files."""
    total = 0
    for folder, _, names in os.walk(place.folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
