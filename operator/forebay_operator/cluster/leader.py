"""What an operator does while it leads: parts of its own, and beside them status, events and worker pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from forebay_api.function import FunctionKey
from forebay_operator.cluster import health
from forebay_operator.cluster.api import Api
from forebay_operator.cluster.config import ClusterConfig
from forebay_operator.cluster.default_pool import DefaultPool
from forebay_operator.cluster.duty import carefully, duty
from forebay_operator.cluster.events import Events
from forebay_operator.cluster.pools import Pools
from forebay_operator.cluster.publish import Publisher
from forebay_operator.cluster.secrets import Secrets
from forebay_operator.cluster.seen import ClusterSeen
from forebay_operator.cluster.source import Invalid, Source, StoredFunctions
from forebay_operator.cluster.template import POOL_LABEL, PodSettings
from forebay_operator.cluster.watch import Watch
from forebay_operator.control import Outcome
from forebay_operator.decide.seen import WorkerSeen
from forebay_operator.doors import Doors
from forebay_operator.estate import Estate
from forebay_operator.measurements import measurements
from forebay_operator.parts import Parts, Timing, assemble
from forebay_operator.status import Urls
from forebay_operator.term import Term
from forebay_operator.together import together
from forebay_wire.v1 import fleet_pb2

APART = 0.25
"""Seconds from reconciling pools to doing it again, however much happens."""


@dataclass(frozen=True, slots=True)
class Doorways:
    """``all`` is what workers and gateways come through, ``people`` the operator's own port for them."""

    all: Doors
    people: Doors


class Leader:
    """For one term."""

    def __init__(self, config: ClusterConfig, api: Api, watch: Watch, term: Term, timing: Timing) -> None:
        urls = Urls(config.gateway_url, config.domain)
        settings = PodSettings(
            namespace=config.namespace,
            release=config.release,
            operator=config.worker_operator,
            image=config.worker_image,
            pull_policy=config.worker_pull_policy,
            pull_secrets=config.pull_secrets,
        )
        self._watch = watch
        self._source = Source(lambda: watch.functions)
        self._publisher = Publisher(api, lambda: watch.functions)
        self._events = Events(api, config.pod, lambda: watch.functions)
        self._pools = Pools(api, settings, self._events.about)
        self._default_pool = DefaultPool(
            api, config.namespace, config.release, lambda: watch.seen.pools, self._events.about
        )
        self._revision = watch.revision
        self._estate = estate(watch.seen)
        self._news = asyncio.Event()
        self._secrets = Secrets(api, lambda: self._parts.alarm.within(0.0))
        self._measurements = measurements(config.prometheus, lambda: self._parts)
        self._parts: Parts = assemble(
            term,
            urls,
            timing,
            estate=lambda: self._estate,
            passed=self._passed,
            credentials=self._secrets,
            stranger=lambda report: stranger(watch.seen, report),
            measurements=self._measurements,
        )

    async def run(self, doorways: Doorways) -> None:
        """Until cancelled."""
        self._parts.attend(doorways.all)
        self._parts.attend_people(doorways.people)
        await together(
            self._parts.run(self._follow()),
            self._publisher.run(),
            self._events.run(),
            self._secrets.run(),
            *([self._measurements.run()] if self._measurements else []),
            duty("pools", self._keep_pools, self._news, APART),
            duty("default pool", self._default_pool.keep, asyncio.Event(), APART),
        )

    def changed(self) -> None:
        """The watch shows something else."""
        self._publisher.look(self._watch.touched())
        self._estate = estate(self._watch.seen)  # here, not in every pass: it looks at all pods
        if self._revision != self._watch.revision:
            self._revision = self._watch.revision
            self._source.changed()
            self._parts.alarm.within(0.0)
            self._news.set()

    async def _follow(self) -> AsyncIterator[StoredFunctions]:
        invalid: Mapping[FunctionKey, Invalid] = {}
        async for stored in self._source.follow():
            yield stored
            if stored.invalid != invalid:  # they make no difference to passes
                invalid = stored.invalid
                with carefully("status"):
                    self._publisher.take(self._parts.control.outcome, stored.invalid)

    def _passed(self, outcome: Outcome) -> None:
        with carefully("status"):
            self._publisher.take(outcome, self._source.stored.invalid)
        with carefully("events"):
            self._events.take(outcome)
        self._news.set()

    async def _keep_pools(self, now: float) -> float | None:
        workers: dict[str, WorkerSeen] = {worker.name: worker.seen for worker in self._parts.fleet.workers.values()}
        return await self._pools.reconcile(self._watch.seen, workers, now)


def stranger(seen: ClusterSeen, report: fleet_pb2.WorkerReport) -> str:
    """Why who says so is not the worker of the pod of that name; empty: it is. A certificate only says that it is
    some worker."""
    pod = seen.pods.get(report.name)
    if pod is None:
        return f"there is no worker pod {report.name}"
    uid = str(pod["metadata"]["uid"])
    return "" if report.pod_uid == uid else f"pod {report.name} is {uid}, not {report.pod_uid or 'without a uid'}"


def estate(seen: ClusterSeen) -> Estate:
    """Which pools there are, and what pods say of their workers. A worker is called as its pod."""
    pools = {name: str((body["metadata"].get("labels") or {}).get(POOL_LABEL, "")) for name, body in seen.pods.items()}
    return Estate(pools, health.unhealthy(seen.pods.values()), frozenset(seen.pools))
