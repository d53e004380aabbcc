"""Carries the steps of one pool out: a few calls at a time, each one that harms nothing when it was made before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from forebay_api.pool import Pool
from forebay_operator.cluster import pool_view
from forebay_operator.cluster.api import Api, ApiError, Conflict, NotFound
from forebay_operator.cluster.claims import make_claim
from forebay_operator.cluster.kinds import KINDS, Kind
from forebay_operator.cluster.pods import make_pod
from forebay_operator.cluster.pool_told import Told
from forebay_operator.cluster.template import PodSettings
from forebay_operator.decide.pools import CreateClaim, CreatePod, DeletePod, PoolStep, Why

log = structlog.get_logger(__name__)

Tell = Callable[[Mapping[str, Any], str, str, bool], None]
"""Of an event: the object, reason, message, and whether it is a warning."""

AT_ONCE = 8
"""Calls on their way at a time."""

ATTEMPTS = 3
"""At a name that was taken, and was free again when somebody looked."""

WORDS: Mapping[Why, str] = {
    Why.DEAD: "it ended",
    Why.SURPLUS: "it is one too many",
    Why.STRAY: "its node is gone, or takes no new pods",
    Why.OUTDATED: "the pool's template has changed",
}


class NameTaken(ApiError):
    """An object of this name exists, and another made it."""


class PoolSteps:
    def __init__(self, api: Api, settings: PodSettings, told: Told, tell: Tell) -> None:
        self._api = api
        self._settings = settings
        self._told = told
        self._tell = tell

    async def carry_out(self, pool: Pool, body: Mapping[str, Any], steps: Sequence[PoolStep], now: float) -> None:
        """``body``: the pool's, which events are about. After an error no further steps are begun; raises the first,
        an ApiError."""
        for batch in _batches(steps):
            answers = await asyncio.gather(
                *(self._take(pool, body, step, now) for step in batch), return_exceptions=True
            )
            for wrong in answers:
                if isinstance(wrong, BaseException):
                    raise wrong

    async def _take(self, pool: Pool, body: Mapping[str, Any], step: PoolStep, now: float) -> None:
        match step:
            case CreateClaim():
                made = await self._create(pool, KINDS.CLAIM, make_claim(pool, step.node, self._settings))
                self._told.created(pool_view.claim_seen(made), now)
            case CreatePod():
                made = await self._create(pool, KINDS.POD, make_pod(pool, step.node, step.index, self._settings))
                self._told.created(pool_view.pod_seen(made), now)
                log.info("worker pod created", pool=pool.name, pod=step.name, node=step.node)
                self._tell(body, "WorkerCreated", f"created worker {step.name} for node {step.node}", False)
            case DeletePod():
                await self._delete(step)
                self._told.deleted(step.uid, now)
                log.info("worker pod deleted", pool=pool.name, pod=step.name, why=step.why)
                why = WORDS[step.why]
                self._tell(body, "WorkerDeleted", f"deleted worker {step.name}: {why}", False)

    async def _create(self, pool: Pool, kind: Kind, body: dict[str, Any]) -> Mapping[str, Any]:
        """The object, made now or in a pass before that the watch has not shown yet. Raises NameTaken."""
        for _ in range(ATTEMPTS):
            try:
                return await self._api.create(body)
            except Conflict as conflict:
                if conflict.reason != "AlreadyExists":
                    raise
                taken = conflict
            with contextlib.suppress(NotFound):  # it is gone by now
                return await self._found(pool, kind, body["metadata"], taken)
        raise taken

    async def _found(
        self, pool: Pool, kind: Kind, metadata: Mapping[str, Any], conflict: Conflict
    ) -> Mapping[str, Any]:
        found = await self._api.get(kind, metadata["namespace"], metadata["name"])
        owner = pool_view.owner_uid(found)
        if owner == pool.uid or (not owner and kind is KINDS.CLAIM):
            return found
        what = f"{kind.name} {metadata['name']} exists already, and is not of this pool"
        raise NameTaken(conflict.status, conflict.reason, what) from conflict

    async def _delete(self, step: DeletePod) -> None:
        """Only this very pod: what has its name by now is another."""
        with contextlib.suppress(NotFound, Conflict):
            await self._api.delete(KINDS.POD, self._settings.namespace, step.name, uid=step.uid)


def _batches(steps: Sequence[PoolStep]) -> Iterator[Sequence[PoolStep]]:
    return (steps[at : at + AT_ONCE] for at in range(0, len(steps), AT_ONCE))
