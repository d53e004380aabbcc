"""The pool that a chart's values ask for. A chart cannot hold a kind and an object of that kind, so it holds a
ConfigMap, of which the leader makes the object, owned by it: when the ConfigMap goes, the pool goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
import yaml

from forebay_api import names
from forebay_api.pool import InvalidPool, Pool
from forebay_operator.cluster.api import Api, ApiError, Conflict, NotFound
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.pool_steps import Tell
from forebay_operator.cluster.seen import Body

log = structlog.get_logger(__name__)

KEY = "pool.yaml"

AGAIN = 10.0
"""Seconds from look to look: an upgrade of the chart changes the ConfigMap, and nobody watches it."""

SOON = 5.0
"""Seconds until the next look when something was in the way."""

MAX_BYTES = 1 << 18


class NoPool(Exception):
    """The ConfigMap holds no pool. The text is for people and names what is wrong."""


@dataclass(frozen=True, slots=True)
class DefaultPool:
    """``pools``: those of the namespace by name, as last seen."""

    api: Api
    namespace: str
    release: str
    pools: Callable[[], Mapping[str, Body]]
    tell: Tell

    async def keep(self, now: float) -> float:
        """Make or change the pool if the ConfigMap says so. Returns when to look again, in unix seconds."""
        try:
            return now + await self._keep()
        except ApiError as error:
            log.warning("the default pool cannot be kept", error=str(error))
            return now + SOON

    async def _keep(self) -> float:
        try:
            source = await self.api.get(KINDS.CONFIGMAP, self.namespace, f"{self.release}-pool")
        except NotFound:
            return AGAIN  # the values ask for none
        try:
            body = wanted(source)
        except NoPool as wrong:
            return self._complain(source, str(wrong))
        there = await self._there(body["metadata"]["name"])
        if there is not None and not _owned(there, source):
            if "deletionTimestamp" in there["metadata"] or _owned_by_former(there, source):
                return SOON  # of a release before: it is on its way out
            return self._complain(
                source, f"a WorkerPool {body['metadata']['name']} exists that this release did not make"
            )
        try:
            await self.api.apply(body)
        except ApiError as error:
            if error.status not in (400, 403, 422):
                raise
            return self._complain(source, error.message)
        await self._delete_former(source, body["metadata"]["name"])
        return AGAIN

    async def _delete_former(self, source: Body, name: str) -> None:
        """Pools that the values asked for by another name before: they would keep the devices that this one is for."""
        for former in self.pools().values():
            metadata = former["metadata"]
            if metadata["name"] == name or "deletionTimestamp" in metadata or not _owned(former, source):
                continue
            with contextlib.suppress(NotFound, Conflict):  # it is gone, or another by now
                await self.api.delete(KINDS.POOL, self.namespace, metadata["name"], uid=metadata["uid"])
                log.info("a former default pool is deleted", pool=metadata["name"], instead=name)
                self.tell(source, "PoolDeleted", f"deleted WorkerPool {metadata['name']}: it is {name} now", False)

    async def _there(self, name: str) -> Mapping[str, Any] | None:
        try:
            return await self.api.get(KINDS.POOL, self.namespace, name)
        except NotFound:
            return None

    def _complain(self, source: Mapping[str, Any], why: str) -> float:
        log.warning("the default pool is not as the values ask", why=why)
        self.tell(source, "PoolRefused", why, True)
        return AGAIN


def wanted(source: Mapping[str, Any]) -> dict[str, Any]:
    """The pool that the ConfigMap ``source`` describes, in its namespace and owned by it. Raises NoPool."""
    text = (source.get("data") or {}).get(KEY) or ""
    if len(text) > MAX_BYTES:
        raise NoPool(f"{KEY}: {len(text)} characters, expected at most {MAX_BYTES}")
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NoPool(f"{KEY}: this is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
        raise NoPool(f"{KEY}: expected a {names.POOL_KIND} with metadata")
    metadata = {**body["metadata"], "namespace": source["metadata"]["namespace"], "ownerReferences": [_owner(source)]}
    body = {**body, "metadata": metadata}
    try:
        Pool.from_body(body)
    except InvalidPool as invalid:
        raise NoPool(f"{KEY}: {invalid}") from invalid
    return body


def _owner(source: Mapping[str, Any]) -> dict[str, Any]:
    metadata = source["metadata"]
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": metadata["name"], "uid": metadata["uid"]}


def _owned(pool: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    return any(owner.get("uid") == source["metadata"]["uid"] for owner in _owners(pool))


def _owned_by_former(pool: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """By one that had the name of ``source`` before: the garbage collector comes for it."""
    named = ("ConfigMap", source["metadata"]["name"])
    return any((owner.get("kind"), owner.get("name")) == named for owner in _owners(pool))


def _owners(pool: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return pool["metadata"].get("ownerReferences") or []
