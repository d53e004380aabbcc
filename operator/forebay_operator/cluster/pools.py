"""Keeps worker pools as they should be: what is seen becomes a decision, the decision calls, and both a status.

Adoption needs nothing of its own: a worker is called as its pod, pods are found by their pool's uid, and a pod is as
the pool wants it as long as it carries the hash of the pool's template. An operator that starts anew replaces none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import Counter

from forebay_api.conditions import Reason
from forebay_api.pool import InvalidPool, Pool
from forebay_operator.cluster import health, pool_gauges, pool_status, pool_view
from forebay_operator.cluster.api import Api, ApiError, NotFound, Unreachable
from forebay_operator.cluster.pool_status import Look
from forebay_operator.cluster.pool_steps import PoolSteps, Tell
from forebay_operator.cluster.pool_told import Told
from forebay_operator.cluster.seen import Body, ClusterSeen
from forebay_operator.cluster.template import PodSettings
from forebay_operator.decide.pool_deaths import deaths
from forebay_operator.decide.pool_seen import Death, PodSeen, PoolsSeen
from forebay_operator.decide.pools import CreateClaim, CreatePod, PoolCount, PoolPlan, next_pool_steps
from forebay_operator.decide.seen import WorkerSeen

log = structlog.get_logger(__name__)

RETRY = 2.0
"""Seconds until a call that nobody answered is made again, and for the first time one that was refused: an API server
that has just started knows no roles yet, and forbids everything."""

REFUSED = 30.0
"""Seconds until what the API server refused again and again is asked for once more, unless the pool changes before."""

ERRORS = Counter("forebay_pool_errors_total", "Calls for worker pools that failed.", ["reason"])
for _reason in ("Forbidden", "Invalid", "Unreachable"):
    ERRORS.labels(_reason)  # the most common, from the start: a rate sees no rise where there was nothing before


@dataclass(frozen=True, slots=True)
class _Refusal:
    """``seconds``: from the last time to ``until``."""

    message: str
    generation: int
    seconds: float
    until: float

    @property
    def verdict(self) -> tuple[str, str] | None:
        """Once it was refused again and again: a quota is full for a moment, and a server that starts forbids all."""
        return (Reason.PODS_REFUSED, self.message) if self.seconds >= REFUSED else None


@dataclass(frozen=True, slots=True)
class _Found:
    """A pool and its body; ``pool`` is None where ``error`` says why nothing can be made of it."""

    body: Body
    pool: Pool | None
    error: tuple[str, str] | None = None


class Pools:
    """``tell`` takes events. All times are unix seconds."""

    def __init__(self, api: Api, settings: PodSettings, tell: Tell) -> None:
        self._api = api
        self._settings = settings
        self._tell = tell
        self._told = Told()
        self._steps = PoolSteps(api, settings, self._told, tell)
        self._deaths: Mapping[str, Death] = {}
        self._refused: dict[str, _Refusal] = {}
        self._written: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._sick: frozenset[str] = frozenset()
        self._began: float | None = None

    async def reconcile(self, seen: ClusterSeen, workers: Mapping[str, WorkerSeen], now: float) -> float | None:
        """One pass. Returns when to look again though nothing happens, None: never. Errors of calls are counted and
        told, and raised none."""
        self._began = now if self._began is None else self._began
        found = {
            name: self._found(body) for name, body in seen.pools.items() if "deletionTimestamp" not in body["metadata"]
        }
        self._forget(found)
        self._tell_of_devices(seen)
        shown = {name: pool_view.pod_seen(body) for name, body in seen.pods.items()}
        self._mourn(seen, shown, now)
        plan = next_pool_steps(self._snapshot(seen, found, shown, workers, now), now)
        pool_gauges.show({name: plan.counts.get(name, PoolCount()) for name in found})
        times = [plan.wake_at]
        for name, one in found.items():
            times.append(await self._keep(name, one, plan, now))
            look, due = self._look(one, plan.counts.get(name), shown, now)
            times += [due, await self._report(one, look, now)]
        times.append(self._told.wake_at)
        return min((at for at in times if at is not None), default=None)

    def _found(self, body: Body) -> _Found:
        try:
            # Status and metadata are the API server's: only the spec can be wrong.
            pool = Pool.from_body(body)
        except InvalidPool as invalid:
            return _Found(body, None, (Reason.INVALID_SPEC, str(invalid)))
        if not (pool.spec.image or self._settings.image):
            return _Found(body, None, (Reason.INVALID_SPEC, "spec.image: got nothing, and the operator has no default"))
        return _Found(body, pool)

    def _forget(self, found: Mapping[str, _Found]) -> None:
        """Refusals of pools that are gone, or are another by now."""
        generations = {one.body["metadata"]["uid"]: _generation(one.body) for one in found.values()}
        self._refused = {uid: no for uid, no in self._refused.items() if generations.get(uid) == no.generation}
        self._written = {uid: written for uid, written in self._written.items() if uid in generations}

    def _snapshot(
        self,
        seen: ClusterSeen,
        found: Mapping[str, _Found],
        shown: Mapping[str, PodSeen],
        workers: Mapping[str, WorkerSeen],
        now: float,
    ) -> PoolsSeen:
        claims = {name: pool_view.claim_seen(body) for name, body in seen.claims.items()}
        return PoolsSeen(
            pools=tuple(pool_view.pool_seen(one.pool, self._settings) for one in found.values() if one.pool),
            nodes=tuple(pool_view.node_seen(body) for body in seen.nodes.values()),
            pods=self._told.pods(shown, now),
            claims=self._told.claims(claims, now),
            loads={name: pool_view.load(worker) for name, worker in workers.items()},
            deaths=self._deaths,
            began=self._began or now,
        )

    async def _keep(self, name: str, one: _Found, plan: PoolPlan, now: float) -> float | None:
        """Carry the steps out. Returns when those that failed are due again."""
        if one.pool is None:
            return None
        refusal = self._refused.get(one.pool.uid)
        waits = refusal is not None and now < refusal.until
        steps = [
            step
            for step in plan.steps
            if step.pool == name and not (waits and isinstance(step, CreateClaim | CreatePod))
        ]
        try:
            await self._steps.carry_out(one.pool, one.body, steps, now)
        except Unreachable as error:
            ERRORS.labels(error.reason).inc()
            log.warning("the API server gives no answer for a pool", pool=name, error=str(error))
            return now + RETRY
        except ApiError as error:
            ERRORS.labels(error.reason).inc()
            self._refuse(one, error, now)
        else:
            if not waits:
                self._refused.pop(one.pool.uid, None)
        refusal = self._refused.get(one.pool.uid)
        return refusal.until if refusal else None

    def _refuse(self, one: _Found, error: ApiError, now: float) -> None:
        metadata = one.body["metadata"]
        before = self._refused.get(metadata["uid"])
        seconds = min(REFUSED, 2 * before.seconds) if before else RETRY
        log.warning("the API server refuses a worker", pool=metadata["name"], error=str(error), again_in=seconds)
        self._refused[metadata["uid"]] = _Refusal(error.message, _generation(one.body), seconds, now + seconds)
        self._tell(one.body, Reason.PODS_REFUSED, error.message, True)

    def _look(
        self, one: _Found, count: PoolCount | None, shown: Mapping[str, PodSeen], now: float
    ) -> tuple[Look, float | None]:
        """And when (unix seconds) it will be another though nothing happens."""
        uid = one.body["metadata"]["uid"]
        refusal = self._refused.get(uid)
        mine = sorted((pod for pod in shown.values() if pod.owner == uid), key=lambda pod: pod.name)
        late, due = pool_view.overdue(mine, now)
        look = Look(
            generation=_generation(one.body),
            count=count or PoolCount(),
            error=one.error or (refusal.verdict if refusal else None),
            refused=refusal.message if refusal else "",
            troubles=(*pool_view.troubles(mine), *late),
            sick=tuple(pod.name for pod in mine if pod.sick and not pod.leaving),
            wanted=one.pool is None or one.pool.spec.gpus_per_node != 0,
            resource=one.pool.spec.resource_name if one.pool else "",
        )
        return look, due

    async def _report(self, one: _Found, look: Look, now: float) -> float | None:
        """One write, and only of what is not stored already. Returns when a failed one is due again."""
        metadata = one.body["metadata"]
        version = str(metadata.get("resourceVersion", ""))
        written, mine = self._written.get(metadata["uid"], ("", {}))
        stored = mine if mine and written == version else one.body.get("status") or {}  # the watch may lag
        status = pool_status.status(look, stored, now)
        if pool_status.stored_like(status, stored):
            return None
        try:
            await self._api.apply(
                pool_status.body(metadata["namespace"], metadata["name"], status), subresource="status"
            )
        except NotFound:
            return None
        except ApiError as error:
            ERRORS.labels(error.reason).inc()
            log.warning("a pool's status cannot be written", pool=metadata["name"], error=str(error))
            return now + (RETRY if isinstance(error, Unreachable) else REFUSED)
        self._written[metadata["uid"]] = (version, status)
        return None

    def _mourn(self, seen: ClusterSeen, shown: Mapping[str, PodSeen], now: float) -> None:
        before, self._deaths = self._deaths, deaths(self._deaths, shown.values(), now)
        for name, death in self._deaths.items():
            if death is not before.get(name):
                log.warning("a worker pod ended", pod=name, why=shown[name].trouble)
                self._tell(seen.pods[name], "WorkerEnded", (shown[name].trouble or ("", "it ended"))[1], True)

    def _tell_of_devices(self, seen: ClusterSeen) -> None:
        sick = health.unhealthy(seen.pods.values())
        for name in sorted(sick - self._sick):
            devices = ", ".join(health.sick_devices(seen.pods[name]))
            log.warning("a device is unhealthy", worker=name, devices=devices)
            self._tell(seen.pods[name], "DeviceUnhealthy", f"{devices} is unhealthy: the worker gets no work", True)
        for name in sorted((self._sick - sick) & seen.pods.keys()):
            self._tell(seen.pods[name], "DeviceHealthy", "its device is healthy again: the worker gets work", False)
        self._sick = sick


def _generation(body: Body) -> int:
    return int(body["metadata"].get("generation", 1))
