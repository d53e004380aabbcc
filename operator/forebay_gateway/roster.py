"""Functions and pipelines as the operator pushed them last: kept while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import grpc

from forebay_api.function import FunctionKey
from forebay_api.model import Epoch
from forebay_gateway.pick import Pipeline
from forebay_gateway.uplink import Uplink
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a cold start: ``fraction`` of the bytes that the first token needs, ``eta`` in seconds."""

    phase: str
    fraction: float
    eta: float


@dataclass(frozen=True, slots=True)
class Route:
    """A function and what holds for its requests. ``backbone`` is empty until inspected; ``max_model_len`` 0 = not yet
    known; ``container_concurrency`` per replica, 0 = no limit; ``refusal_reason`` set = refuse at once."""

    key: FunctionKey
    model_name: str
    backbone: str
    adapter: str
    state: str
    refusal_reason: str
    refusal_message: str
    container_concurrency: int
    timeout_seconds: int
    queue_max_requests: int
    queue_timeout_seconds: int
    cold_start_timeout_seconds: int
    max_model_len: int
    created: float
    progress: Progress | None

    @property
    def names(self) -> tuple[str, ...]:
        """What the OpenAI field ``model`` may call it."""
        return (self.model_name, self.key.name, str(self.key))


class Roster:
    """The last table, and who wants to know of a new one."""

    def __init__(self) -> None:
        self.functions: Mapping[FunctionKey, Route] = {}
        self._by_model: Mapping[str, Route] = {}
        self._contested: Mapping[str, tuple[Route, ...]] = {}
        self._pipelines: Mapping[str, tuple[Pipeline, ...]] = {}
        self.epochs: frozenset[Epoch] = frozenset()
        self._listeners: list[Callable[[], None]] = []
        self._arrived = asyncio.Event()
        self._next: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Roster {len(self.functions)} functions, {len(self.epochs)} pipelines>"

    @property
    def arrived(self) -> bool:
        return self._arrived.is_set()

    async def first_table(self, seconds: float) -> None:
        """Wait for it. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._arrived.wait()

    def listen(self, changed: Callable[[], None]) -> None:
        self._listeners.append(changed)

    async def change(self) -> None:
        """Wait for the next table."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def by_model(self, model: str) -> Route | None:
        """The function that goes by ``namespace/name``; or by this served name, or else this name, where functions of
        no other namespace do: who may make functions in one namespace gets no requests for those of another. Of one
        namespace it is the one created first."""
        return self._by_model.get(model)

    def contenders(self, model: str) -> tuple[Route, ...]:
        """The functions of several namespaces that go by this name, so that none is meant by it."""
        return self._contested.get(model, ())

    def pipelines(self, backbone: str) -> tuple[Pipeline, ...]:
        return self._pipelines.get(backbone, ())

    @property
    def all_pipelines(self) -> Iterator[Pipeline]:
        return chain.from_iterable(self._pipelines.values())

    def apply(self, table: demand_pb2.RouteTable) -> None:
        routes = sorted(map(_route, table.functions), key=lambda route: (route.created, route.key))
        self.functions = {route.key: route for route in routes}
        self._name(routes)
        pipelines: dict[str, tuple[Pipeline, ...]] = {}
        for pipeline in map(_pipeline, table.pipelines):
            pipelines[pipeline.backbone] = (*pipelines.get(pipeline.backbone, ()), pipeline)
        self._pipelines = pipelines
        self.epochs = frozenset(pipeline.epoch for pipeline in self.all_pipelines)
        self._arrived.set()
        for changed in self._listeners:
            changed()
        if self._next is not None:
            self._next.set_result(None)
            self._next = None

    def _name(self, routes: Iterable[Route]) -> None:
        """``routes``: those created first come first."""
        claims: dict[str, list[Route]] = {}
        for served in (True, False):
            for route in routes:
                claims.setdefault(route.model_name if served else route.key.name, []).append(route)
        contested = {
            name: tuple(dict.fromkeys(claiming))
            for name, claiming in claims.items()
            if len({route.key.namespace for route in claiming}) > 1
        }
        bare = {name: claiming[0] for name, claiming in claims.items() if name not in contested}
        self._by_model = bare | {str(route.key): route for route in routes}
        self._contested = contested

    async def follow(self, uplink: Uplink, gateway: str) -> None:
        """Apply what the operator pushes, until cancelled."""

        async def session(channel: grpc.aio.Channel, answered: Callable[[], None]) -> None:
            async for table in demand_pb2_grpc.RoutesStub(channel).Watch(demand_pb2.RoutesRequest(gateway=gateway)):
                answered()
                self.apply(table)

        await uplink.keep("routes", session)


def _route(wire: demand_pb2.FunctionRoute) -> Route:
    progress = wire.progress
    return Route(
        key=FunctionKey(wire.namespace, wire.name),
        model_name=wire.model_name or wire.name,
        backbone=wire.backbone,
        adapter=wire.adapter,
        state=wire.state,
        refusal_reason=wire.refusal_reason,
        refusal_message=wire.refusal_message,
        container_concurrency=wire.container_concurrency,
        timeout_seconds=wire.timeout_seconds,
        queue_max_requests=wire.queue_max_requests,
        queue_timeout_seconds=wire.queue_timeout_seconds,
        cold_start_timeout_seconds=wire.cold_start_timeout_seconds,
        max_model_len=wire.max_model_len,
        created=wire.created_unix_us / 1e6,
        progress=Progress(progress.phase, progress.fraction, progress.eta_seconds)
        if wire.HasField("progress")
        else None,
    )


def _pipeline(wire: demand_pb2.PipelineRoute) -> Pipeline:
    return Pipeline(
        epoch=Epoch(wire.epoch.term, wire.epoch.counter),
        backbone=wire.backbone,
        head=wire.head,
        engine_unix=wire.engine_unix,
        engine_tcp=wire.engine_tcp,
        stages=wire.stages,
    )
