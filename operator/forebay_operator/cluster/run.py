"""The operator of a cluster: it listens and watches from the start, and acts from when it leads until it does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

import grpc
import structlog

from forebay_channel import Guard, Role
from forebay_operator.cluster.api import Api
from forebay_operator.cluster.config import ClusterConfig
from forebay_operator.cluster.health_port import health_port
from forebay_operator.cluster.leader import Doorways, Leader
from forebay_operator.cluster.leadership import ClusterTerm, Leadership
from forebay_operator.cluster.papers import Papers
from forebay_operator.cluster.watch import Watch
from forebay_operator.doors import Doors
from forebay_operator.exposed import exposed
from forebay_operator.listen import OPTIONS, CannotListen, listen
from forebay_operator.parts import TIMING, Timing
from forebay_operator.server import GRACE, started
from forebay_operator.together import together
from forebay_process.expiry import watched

log = structlog.get_logger(__name__)

WIRE = "forebay_wire.v1"
ALLOWED = {
    f"{WIRE}.Fleet": {Role.WORKER},
    f"{WIRE}.Demand": {Role.GATEWAY},
    f"{WIRE}.Routes": {Role.GATEWAY},
    f"{WIRE}.View": {Role.OPERATOR, Role.GATEWAY},
    "grpc.health.v1.Health": set(Role),
}
"""Who may call what."""

PATIENCE = 5.0
"""Seconds in which the address of our own last server becomes free."""


async def run(config: ClusterConfig, *, context: str | None = None, timing: Timing = TIMING) -> None:
    """Run until cancelled, which is the clean stop: the lease is given back. ``context``: of the kubeconfig.

    Raises CannotListen, CannotLogIn."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(watched(config.identity))
        stack.enter_context(exposed(config.metrics_port, config.metrics_release, config.host))
        api = await stack.enter_async_context(Api.connect(context))
        operator = Operator(config, api, timing, context)
        await stack.enter_async_context(health_port(config.health_port, operator.missing))
        await operator.run()


class Operator:
    """One process. ``missing`` says in words why it is not ready, empty: it is."""

    def __init__(self, config: ClusterConfig, api: Api, timing: Timing, context: str | None) -> None:
        self._config = config
        self._api = api
        self._timing = timing
        self._watch = Watch(api, config.namespace, context=context, changed=self._changed)
        self._leadership = Leadership(api, config.namespace, config.release, config.pod)
        self._papers = Papers(config, api, self._leadership)
        self._leader: Leader | None = None
        self._listening = False

    def missing(self) -> str:
        if not self._watch.warm.is_set():
            return "not everything in the cluster was seen yet"
        return "" if self._listening else "not listening yet"

    async def run(self) -> None:
        """Until cancelled. Raises CannotListen."""
        await together(self._watch.run(), self._campaign(), self._papers.run(), self._live())

    async def _campaign(self) -> None:
        """Who has not seen what exists cannot lead."""
        await self._watch.warm.wait()
        await self._leadership.run()

    async def _live(self) -> None:
        """As a standby, then as the leader; when another one takes over, all calls end and it begins anew."""
        await self._papers.there.wait()
        while True:
            async with self._served() as doorways:
                self._listening = True
                await self._leadership.leading.wait()
                api = self._api.while_true(self._leadership.lasts)
                self._leader = Leader(self._config, api, self._watch, ClusterTerm(self._leadership), self._timing)
                try:
                    await self._until_lost(self._leader.run(doorways))
                finally:
                    self._leader = None
                    self._listening = False

    async def _until_lost(self, leading: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(leading)
        lost = asyncio.ensure_future(self._leadership.lost.wait())
        try:
            await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            task.cancel()
            lost.cancel()
            await asyncio.gather(task, lost, return_exceptions=True)

    def _changed(self) -> None:
        if self._leader is not None:
            self._leader.changed()

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[Doorways]:
        """Both servers, with doors that are still closed."""
        config = self._config
        guard = Guard(ALLOWED, config.identity)
        main = grpc.aio.server(options=OPTIONS, interceptors=[guard])
        shown = grpc.aio.server(options=OPTIONS)
        doorways = Doorways(Doors(), Doors())
        try:
            address = await _bound(main, config.address, config)
            view = await _bound(shown, config.view, None)
            async with started(main, doorways.all), started(shown, doorways.people):
                log.info("operator listens", address=address, view=view)
                yield doorways
        finally:
            await asyncio.gather(main.stop(GRACE), shown.stop(GRACE))


async def _bound(server: grpc.aio.Server, address: str, config: ClusterConfig | None) -> str:
    """Raises CannotListen, but not at once: our own last server may still be leaving."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return listen(server, address, config.identity if config else None)
        except CannotListen:
            if asyncio.get_running_loop().time() >= end:
                raise
            await asyncio.sleep(0.1)
