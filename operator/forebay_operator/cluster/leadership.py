"""Carries out what ``lease`` decides: takes the lease, keeps it, and gives it back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from forebay_operator.cluster import lease
from forebay_operator.cluster.api import Api, ApiError, Conflict, NotFound
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.lease import Acquire, LeaseSeen, Renew, StepDown, Wait
from forebay_operator.cluster.seen import Body
from forebay_operator.term import Term

log = structlog.get_logger(__name__)

CALL = 2.0
"""Seconds for one turn's calls: a renewal that hangs must leave time for another one while the lease is still ours."""

LEADING = Gauge("forebay_leading", "1 while this operator leads.")
TERM = Gauge("forebay_leader_term", "The leader term of this operator, 0 while it is a standby.")


class Leadership:
    """``leading`` is set while we lead, ``lost`` from when another one took over until we lead again.

    The lease's holder is the pod's name, ``_`` and a few random characters: a container that is restarted in its pod is
    another operator."""

    def __init__(self, api: Api, namespace: str, release: str, pod: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = f"{release}-operator"
        self._owner = f"{release}-owner"
        self.identity = f"{pod}_{uuid.uuid4().hex[:8]}"
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        self.term = 0
        self._above = 0
        self._since = 0.0
        self._renewed = 0.0
        self._seen = LeaseSeen()
        self._stored: Body | None = None
        self._hurry = asyncio.Event()
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until cancelled; then the lease is given back, if we have it."""
        try:
            while True:
                await self._rest(await self._turn())
        finally:
            await asyncio.shield(self._release())

    def lasts(self) -> bool:
        """We lead, and nobody else can: what we write undoes nothing of another leader's."""
        return bool(self.term) and lease.lasts(self._renewed, self._clock())

    def rise_above(self, obeyed: int) -> None:
        """Lead in a higher term, as soon as it is stored."""
        if obeyed > max(self.term, self._above):
            self._above = obeyed
            self._hurry.set()

    async def _turn(self) -> float:
        """One look, and what follows from it; seconds until the next."""
        try:
            async with asyncio.timeout(CALL):
                if not self.term or not self._seen.version:
                    await self._look()
                return await self._act()
        except (Conflict, NotFound):
            self._seen, self._stored = LeaseSeen(), None  # another one wrote or deleted it: look
            return 0.0
        except (ApiError, TimeoutError) as error:  # who leads acts on: nobody else was seen to
            log.warning("the lease is out of reach", leading=bool(self.term), error=str(error) or "no answer in time")
            return lease.RETRY

    async def _look(self) -> None:
        before, self._seen = self._seen, LeaseSeen()  # unless it succeeds: who was blind has observed no silence
        try:
            self._stored = await self._api.get(KINDS.LEASE, self._namespace, self._name)
        except NotFound:
            self._stored = None
        self._seen = lease.seen(self._stored, before, self._clock())
        # Whatever becomes of the lease: a term that somebody led in is never led in again.
        self._above = max(self._above, self._seen.transitions)

    async def _act(self) -> float:
        match lease.decide(self._seen, self.identity, self.term, self._above, self._clock()):
            case Wait(until):
                return max(0.0, until - self._clock())
            case StepDown(holder):
                self._step_down(holder)
                return lease.RETRY
            case Acquire(term):
                self._since = time.time()
                await self._write(self.identity, term)
            case Renew(term):
                await self._write(self.identity, term)
        self._lead()
        return lease.RENEW

    async def _write(self, holder: str, term: int) -> None:
        now = self._clock()
        if self._stored is None:
            wanted = lease.new(self._namespace, self._name, await self._owners())
            stored = await self._api.create(lease.body(wanted, holder, term, time.time(), self._since))
        else:
            stored = await self._api.replace(lease.body(self._stored, holder, term, time.time(), self._since))
        self._stored, self._renewed = stored, now
        self._seen = lease.seen(stored, self._seen, now)

    async def _owners(self) -> list[Body]:
        """What the release has for owning what is made while it runs, so that the lease goes with the release."""
        try:
            owner = await self._api.get(KINDS.CONFIGMAP, self._namespace, self._owner)
        except NotFound:
            return []
        return [{"apiVersion": "v1", "kind": "ConfigMap", "name": self._owner, "uid": owner["metadata"]["uid"]}]

    def _lead(self) -> None:
        if self.term != self._seen.transitions:
            log.info("leads", term=self._seen.transitions, identity=self.identity)
        if not self.term:
            self.lost.clear()
        self.term = self._seen.transitions
        TERM.set(self.term)
        LEADING.set(1)
        self.leading.set()

    def _step_down(self, holder: str) -> None:
        log.warning("steps down: another one leads", term=self.term, holder=holder)
        self.term = 0
        TERM.set(0)
        LEADING.set(0)
        self.leading.clear()
        self.lost.set()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def _release(self) -> None:
        if not self.term:
            return
        term, self.term = self.term, 0
        LEADING.set(0)
        try:
            async with asyncio.timeout(CALL):
                await self._write("", term)
            log.info("the lease is given back", term=term)
        except (ApiError, TimeoutError) as error:
            log.warning("the lease could not be given back", error=str(error))


class ClusterTerm(Term):
    """The lease's count of leaderships."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._last = leadership.term

    @property
    def number(self) -> int:  # type: ignore[override]
        """Stays what it was when the leadership ends: what is still on its way was said under it."""
        self._last = self._leadership.term or self._last
        return self._last

    def rise_above(self, obeyed: int) -> None:
        """Once it is stored; until then workers refuse what we say, which is right if somebody else leads."""
        if obeyed > self.number:
            log.warning("a worker obeys a higher term", term=self.number, obeyed=obeyed)
            self._leadership.rise_above(obeyed)
