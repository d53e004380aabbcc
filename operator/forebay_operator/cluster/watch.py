"""Everything of the cluster that decisions need, kept as the watches last showed it.

A watch alone is not believed: kopf tells of no object that vanished while it was cut off, and a dead watch looks like
a quiet one. So now and then uids and versions of all objects are listed and compared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from forebay_operator.cluster.api import Api, ApiError
from forebay_operator.cluster.kinds import KINDS, Kind
from forebay_operator.cluster.listener import Listener, Watched
from forebay_operator.cluster.seen import Body, ClusterSeen
from forebay_operator.cluster.shelf import Shelf

log = structlog.get_logger(__name__)

DEBOUNCE = 0.05
"""Seconds in which events become one change."""

COMPARE = 30.0
"""Seconds from comparison to comparison."""

APART = 1.0
"""At least, however much there is to doubt."""

LAG = 10.0
"""Seconds after which an object that a watch has not shown, or not as it is now, means that the watch is dead."""

FIRST = 0.25
"""Seconds from comparison to comparison until everything was seen once."""

WORKERS = "app.kubernetes.io/name=forebay,app.kubernetes.io/component=worker"
MISSED = Counter("forebay_watch_missed_total", "Objects that came, changed or went and no watch said so.", ["kind"])


@dataclass(slots=True)
class _Kept:
    """What is known of one kind. ``missing``: uids that exist and were not shown, ``behind``: those that were shown and
    are another version by now; each since when (loop time)."""

    watched: Watched
    listener: Listener | None = None
    shelf: Shelf = field(default_factory=Shelf)
    missing: dict[str, float] = field(default_factory=dict)
    behind: dict[str, float] = field(default_factory=dict)
    complete: bool = False


class Watch:
    """``changed`` is called soon after anything did, and once when all that exists was seen (``warm`` is set then)."""

    def __init__(self, api: Api, namespace: str, *, context: str | None = None, changed: Callable[[], None]) -> None:
        self._api = api
        self._changed = changed
        self._due: asyncio.TimerHandle | None = None
        self._doubt = asyncio.Event()
        self.warm = asyncio.Event()
        everywhere = (Watched(KINDS.FUNCTION), Watched(KINDS.NODE))
        ours = (
            Watched(KINDS.POOL, namespace),
            Watched(KINDS.POD, namespace, WORKERS),
            Watched(KINDS.CLAIM, namespace),
        )
        self._kept = {watched.kind: _Kept(watched) for watched in (*everywhere, *ours)}
        self._kept[KINDS.FUNCTION].shelf = Shelf(by_generation=True)
        for group in (everywhere, ours):
            listener = Listener(group, self._take, context)
            for watched in group:
                self._kept[watched.kind].listener = listener

    async def run(self) -> None:
        """Until cancelled."""
        await self._until_kinds_exist()
        async with asyncio.TaskGroup() as tasks:
            for listener in {id(kept.listener): kept.listener for kept in self._kept.values()}.values():
                if listener is not None:
                    tasks.create_task(listener.run())
            tasks.create_task(self._compare_for_ever())

    @property
    def functions(self) -> Mapping[tuple[str, str], Body]:
        """By namespace and name."""
        return self._kept[KINDS.FUNCTION].shelf.named()

    @property
    def revision(self) -> int:
        """Grows with all but the status of functions, which is what we write ourselves."""
        return sum(kept.shelf.revision for kept in self._kept.values())

    def touched(self) -> set[tuple[str, str]]:
        """Namespaces and names of functions that changed since this was last asked."""
        return self._kept[KINDS.FUNCTION].shelf.touched()

    @property
    def seen(self) -> ClusterSeen:
        pools, nodes, pods, claims = (
            {name: body for (_, name), body in self._kept[kind].shelf.named().items()}
            for kind in (KINDS.POOL, KINDS.NODE, KINDS.POD, KINDS.CLAIM)
        )
        return ClusterSeen(pools, nodes, pods, claims)

    def _take(self, kind: Kind, event: str | None, body: Body) -> None:
        kept = self._kept[kind]
        for waiting in (kept.missing, kept.behind):  # whatever it tells, it tells something
            waiting.pop(body["metadata"]["uid"], None)
        if event is None and self.warm.is_set():  # listed anew: something may have been missed meanwhile
            self._doubt.set()
        if kept.shelf.take(event, body):
            self._soon()

    def _soon(self) -> None:
        if self._due is None and self.warm.is_set():
            self._due = asyncio.get_running_loop().call_later(DEBOUNCE, self._tell)

    def _tell(self) -> None:
        self._due = None
        self._changed()

    async def _until_kinds_exist(self) -> None:
        """A chart brings the kinds together with us, and kopf never looks again."""
        known: dict[Kind, str] = {}
        while True:
            for kind, kept in self._kept.items():
                try:
                    await self._api.versions(kind, kept.watched.namespace, kept.watched.selector)
                except ApiError as error:
                    if known.get(kind) != str(error):
                        log.warning("cannot list yet", kind=kind.name, error=str(error))
                    known[kind] = str(error)
                    break
            else:
                return
            await asyncio.sleep(1.0)

    async def _compare_for_ever(self) -> None:
        while True:
            for kind, kept in self._kept.items():
                try:
                    await self._compare(kind, kept)
                except ApiError as error:  # blind is not empty: what was seen stays
                    log.info("cannot compare", kind=kind.name, error=str(error))
            if not self.warm.is_set() and all(kept.complete for kept in self._kept.values()):
                log.info(
                    "everything was seen", **{kind.plural: len(kept.shelf.uids) for kind, kept in self._kept.items()}
                )
                self.warm.set()
                self._soon()
            await self._rest()

    async def _rest(self) -> None:
        if not self.warm.is_set():
            await asyncio.sleep(FIRST)
            return
        await asyncio.sleep(APART)
        kinds = self._kept.values()
        # Of what changes all the time some is always on its way: it is looked at once more, and not every second.
        pause = 0.0 if any(kept.missing for kept in kinds) else LAG if any(kept.behind for kept in kinds) else COMPARE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._doubt.wait()
        self._doubt.clear()

    async def _compare(self, kind: Kind, kept: _Kept) -> None:
        """Forget what vanished unseen; begin a watch anew that shows not what there is. Raises ApiError."""
        before = frozenset(kept.shelf.uids)
        missed = MISSED.labels(kind.name)  # there before it rises, or a rate would not see the first one
        exist = await self._api.versions(kind, kept.watched.namespace, kept.watched.selector)
        vanished = before - exist.keys()
        if vanished and kept.shelf.drop(vanished):
            missed.inc(len(vanished))
            log.warning("objects vanished unseen", kind=kind.name, count=len(vanished))
            self._soon()
        now = asyncio.get_running_loop().time()
        shown = {uid: kept.shelf.version(uid) for uid in exist}
        kept.missing = {uid: kept.missing.get(uid, now) for uid, version in shown.items() if not version}
        others = [uid for uid, version in shown.items() if version and version != exist[uid]]
        kept.behind = {uid: kept.behind.get(uid, now) for uid in others}
        kept.complete = kept.complete or not kept.missing
        if any(since + LAG <= now for since in (*kept.missing.values(), *kept.behind.values())):
            self._begin_anew(kind, kept)

    def _begin_anew(self, kind: Kind, kept: _Kept) -> None:
        MISSED.labels(kind.name).inc(len(kept.missing) + len(kept.behind))
        log.warning("a watch shows not what there is", kind=kind.name, new=len(kept.missing), changed=len(kept.behind))
        kept.missing.clear()
        kept.behind.clear()
        if kept.listener is not None:
            kept.listener.begin_anew()
