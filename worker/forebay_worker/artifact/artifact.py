"""The files of one checkpoint that come from elsewhere: bytes are there when somebody needs them, fetched once a node.

    read ─▶ block there?  yes ▸ done
                          no  ▸ claimed here ▸ fetched, written, marked      claimed by another process ▸ wait for it

May not live here: which bytes are needed first (whoever reads decides by reading), hashing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

from prometheus_client import Counter

from forebay_worker.artifact.access import Access
from forebay_worker.artifact.blocks import BLOCK_BYTES, Blocks, disk
from forebay_worker.artifact.cache import Cache, Place, write
from forebay_worker.artifact.errors import (
    INVALID_CHECKPOINT,
    SOURCE_UNAVAILABLE,
    UNAUTHORIZED,
    CheckpointError,
)
from forebay_worker.artifact.listing import HEADERS_BYTES, File, Listing
from forebay_worker.artifact.remote import Chunk, Remote

THREADS = 8
AHEAD = 4
"""Blocks on their way for one reader: enough for the round trips, few enough that the order of reading decides."""
PATIENCE = 240.0
"""Seconds for a block, whoever fetches it. The source itself gives up long before."""
SHORT = 256 << 10
"""Bytes up to which a scattered read does not bring whole blocks."""
HEAD = 128 << 10
"""Bytes with which a file of weights is looked at first."""
REMEMBERED = 64
"""Sources whose credentials are kept, the last ones opened."""
NOTHING = Access()
Span = tuple[Path, int, int]
"""File, first byte, byte after the last."""

fetched_total = Counter("forebay_worker_fetched_bytes_total", "Bytes of models fetched from their sources")


@cache
def _pool(name: str) -> ThreadPoolExecutor:
    """Made when the first byte is fetched, which is never in a process that forks."""
    return ThreadPoolExecutor(THREADS, name)


class Artifact:
    """Thread-safe. Files may be read only within a ``lease``. Without a ``remote`` there is what
    there is, unless a command of the operator has shown this process the way."""

    block_bytes = BLOCK_BYTES

    def __init__(
        self, cache: Cache, place: Place, listing: Listing, remote: Remote | None, access: Access = NOTHING
    ) -> None:
        self.cache, self.place, self.listing, self.access = cache, place, listing, access
        self._remote = remote
        if remote is not None and access.pinned:
            _remember(listing.key, remote)
        self._files = {file.name: file for file in listing.files}
        self._lock = threading.RLock()  # a block that is there at once says so within ``fetch``
        self._blocks: dict[str, Blocks] = {}
        self._coming: dict[tuple[str, int], Future[None]] = {}
        self._leases = contextlib.ExitStack()
        self._leased = 0
        self._headers = 0  # bytes, of those fetched here

    @property
    def folder(self) -> Path:
        return self.place.files

    def file(self, path: Path) -> File:
        return self._files[path.name]

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """While it lasts nothing of this is evicted. Raises CheckpointError, also when the files were found damaged."""
        self.take()
        try:
            yield
        finally:
            self.let_go()

    def take(self) -> None:
        """``lease`` for those that cannot use a with statement; every one needs its ``let_go``."""
        with self._lock:
            if not self._leased:
                self.place.check(time.time())
                self._leases.enter_context(self.cache.lease(self.place))
            self._leased += 1

    def let_go(self) -> None:
        with self._lock:
            self._leased -= 1
            if not self._leased:
                self._leases.close()
                self._blocks.clear()  # each closes with its last reader; the next lease may find other files

    def blocks(self, name: str) -> Blocks:
        """Of a weights' file. Raises CheckpointError."""
        with self._lock:
            if name not in self._blocks:
                self._blocks[name] = Blocks(
                    self.place.files / name, self.place.state(name), self._files[name].size, self.block_bytes
                )
            return self._blocks[name]

    def make(self, path: Path) -> None:
        """See that a file is there, be it empty. Raises CheckpointError."""
        if not self.place.complete(path.name):
            self.blocks(path.name)

    def heads(self, paths: Sequence[Path]) -> list[bytes]:
        """What files of weights begin with, up to the end of their headers at least, as far as these make sense. Kept
        in the cache apart from the rest, so that looking at a model costs little. Raises CheckpointError."""
        unknown = [path for path in paths if not self.place.head(path.name).exists()]
        if unknown:
            self._ways()
            self.cache.make_room(sum(min(HEAD, self.file(path).size) for path in unknown), self.place)
            try:
                tuple(_pool("rows").map(self._fetch_head, unknown, timeout=PATIENCE))
            except TimeoutError:
                raise self._late(unknown[0]) from None
        with disk(self.folder):
            if sum(self.place.head(path.name).stat().st_size for path in paths) > HEADERS_BYTES + HEAD * len(paths):
                raise self._headers_too_long()
            return [self.place.head(path.name).read_bytes() for path in paths]

    def _fetch_head(self, path: Path) -> None:
        file = self.file(path)
        head = bytes(self._read(file, 0, min(HEAD, file.size))) if file.size else b""
        end = 8 + int.from_bytes(head[:8], "little")
        if len(head) < end <= file.size:
            with self._lock:
                self._headers += end
                if self._headers > HEADERS_BYTES:
                    raise self._headers_too_long()
            self.cache.make_room(end - len(head), self.place)
            head += bytes(self._read(file, len(head), end))
        fetched_total.inc(len(head))
        write(self.place.head(path.name), head)

    def _headers_too_long(self) -> CheckpointError:
        return CheckpointError(
            INVALID_CHECKPOINT,
            f"{self.listing.identity}: the headers of its safetensors files have more than {HEADERS_BYTES} bytes",
        )

    def missing(self, spans: Iterable[Span]) -> list[tuple[str, int]]:
        """Blocks that are not there, in the order in which they will be wanted."""
        found: dict[tuple[str, int], None] = {}
        for path, begin, end in spans:
            if not self.place.complete(path.name):
                found |= {(path.name, index): None for index in self.blocks(path.name).missing(begin, end)}
        return list(found)

    def room(self, missing: Sequence[tuple[str, int]]) -> None:
        """See that these blocks will fit. Raises CheckpointError."""
        bounds = [self.blocks(name).bounds(index) for name, index in missing]
        self.cache.make_room(sum(end - begin for begin, end in bounds), self.place)

    def bring(self, path: Path, begin: int, end: int) -> None:
        """Return when these bytes are in the file. Raises CheckpointError."""
        # All of them: what is on its way yet was asked for with credentials that may have been refused meanwhile.
        futures = [self.fetch(name, index) for name, index in self.missing([(path, begin, end)])]
        if wait(futures, PATIENCE).not_done:
            raise self._late(path)
        for future in futures:
            future.result()

    def fetch(self, name: str, index: int) -> Future[None]:
        """Have a block come; idempotent. Raises CheckpointError when there is no way to it."""
        self._ways()  # before a thread is started for nothing
        with self._lock:
            key = name, index
            if known := self._coming.get(key):
                return known
            future = _pool("fetch").submit(self._fetch, self._blocks[name], self._files[name], index)
            self._coming[key] = future
            future.add_done_callback(lambda _: self._came(key))
            return future

    def direct(self, path: Path, ranges: Sequence[tuple[int, int]]) -> list[Chunk]:
        """Bytes of short ranges straight from the source, past the cache. Raises CheckpointError."""
        if not ranges:
            return []
        self._ways()
        file = self.file(path)
        try:
            return list(_pool("rows").map(lambda bounds: self._read(file, *bounds), ranges, timeout=PATIENCE))
        except TimeoutError:
            raise self._late(path) from None

    def _came(self, key: tuple[str, int]) -> None:
        with self._lock:
            self._coming.pop(key, None)

    def _fetch(self, blocks: Blocks, file: File, index: int) -> None:
        """In a thread of the pool."""
        until, pause = time.monotonic() + PATIENCE, 0.002
        while not blocks.present(index):
            if blocks.claim(index):
                try:
                    if not blocks.present(index):  # else it came between the two looks
                        self._store(blocks, file, index)
                finally:
                    blocks.release(index)
            elif time.monotonic() > until:
                raise CheckpointError(
                    SOURCE_UNAVAILABLE,
                    f"{self.listing.identity}: another worker fetches {file.name}, in vain",
                )
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.02)

    def _store(self, blocks: Blocks, file: File, index: int) -> None:
        begin, end = blocks.bounds(index)
        content = self._read(file, begin, end)
        fetched_total.inc(end - begin)
        blocks.put(index, content)

    def _late(self, path: Path) -> CheckpointError:
        return CheckpointError(
            SOURCE_UNAVAILABLE, f"{self.listing.identity}: {path.name} did not come within {PATIENCE:.0f} s"
        )

    def _read(self, file: File, begin: int, end: int) -> Chunk:
        """Raises CheckpointError."""
        *first, last = self._ways()
        for remote in first:
            try:
                return remote.read(file, begin, end)
            except CheckpointError as error:
                if error.reason != UNAUTHORIZED:
                    raise
        return last.read(file, begin, end)

    def _ways(self) -> list[Remote]:
        """Its own first. Who only inspects has no other; for what is to be loaded there is the newest that the operator
        has given, since tokens end, and a worker inherits what the zygote opened without any."""
        ways = [] if self._remote is None else [self._remote]
        if self._remote is None or self.access.pinned:
            newest = _remotes.get(self.listing.key)
            ways += [newest] if newest is not None and newest is not self._remote else []
        if not ways:
            raise CheckpointError(
                SOURCE_UNAVAILABLE, f"{self.listing.identity}: not in the cache, and nobody said how to fetch it"
            )
        return ways


_remotes: OrderedDict[str, Remote] = OrderedDict()
"""By listing. Only of the operator's commands: their credentials have passed an inspection."""


def _remember(key: str, remote: Remote) -> None:
    _remotes[key] = remote
    _remotes.move_to_end(key)
    if len(_remotes) > REMEMBERED:
        _remotes.popitem(last=False)
