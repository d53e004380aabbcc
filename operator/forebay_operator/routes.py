"""What gateways are told: which functions exist and what serves them; the whole table, whenever it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc

from forebay_api.model import Epoch
from forebay_operator import wire
from forebay_operator.decide.ledger import BLOCK_TOKENS
from forebay_operator.decide.seen import FunctionSeen, PipelinePhase, Snapshot
from forebay_operator.fleet import Attached
from forebay_operator.progress import Progress
from forebay_operator.sent import Sent
from forebay_operator.status import FunctionStatus
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc, fleet_pb2

PROGRESS_SECONDS = 0.25
"""Shortest time between tables that differ in progress alone."""


@dataclass(frozen=True, slots=True)
class FunctionRoute:
    seen: FunctionSeen
    status: FunctionStatus
    progress: Progress | None


def formed(workers: Mapping[str, Attached], seen: Snapshot, sent: Sent) -> dict[Epoch, demand_pb2.PipelineRoute]:
    """Pipelines that take requests now: formed as their heads report (so that no request comes before its Form) and
    as nobody denies; those that were just told to drain are left out at once."""
    denied = {pipeline.epoch for pipeline in seen.pipelines if pipeline.phase is not PipelinePhase.FORMED}
    found: dict[Epoch, demand_pb2.PipelineRoute] = {}
    for worker in workers.values():
        for pipeline in worker.report.pipelines:
            epoch = wire.epoch(pipeline.epoch)
            takes = pipeline.head and pipeline.phase == fleet_pb2.PipelineState.FORMED
            if takes and epoch not in denied and not sent.told_to_leave(epoch):
                found[epoch] = _pipeline(pipeline, worker)
    return dict(sorted(found.items()))


def _pipeline(pipeline: fleet_pb2.PipelineState, head: Attached) -> demand_pb2.PipelineRoute:
    return demand_pb2.PipelineRoute(
        epoch=pipeline.epoch,
        backbone=pipeline.backbone,
        head=head.name,
        engine_unix=head.report.addresses.engine_unix,
        engine_tcp=head.report.addresses.engine_tcp,
        stages=len(pipeline.stages),
        kv_tokens=pipeline.kv_blocks * BLOCK_TOKENS,
    )


def table(
    functions: Iterable[FunctionRoute], pipelines: Iterable[demand_pb2.PipelineRoute], seen: Snapshot
) -> demand_pb2.RouteTable:
    """Without a version, which ``Routes`` gives it."""
    return demand_pb2.RouteTable(
        term=seen.next_epoch.term, functions=[_function(route, seen) for route in functions], pipelines=pipelines
    )


def _function(route: FunctionRoute, seen: Snapshot) -> demand_pb2.FunctionRoute:
    function = route.seen.function
    spec = function.spec
    model = seen.backbones.get(route.seen.serving)
    lengths = (spec.model.max_model_len, model.model.max_model_len if model else None)
    reason, message = route.status.refusal or ("", "")
    return demand_pb2.FunctionRoute(
        namespace=function.namespace,
        name=function.name,
        uid=function.uid,
        model_name=function.served_name,
        backbone=route.seen.serving,
        state=route.status.state,
        refusal_reason=reason,
        refusal_message=message,
        container_concurrency=spec.container_concurrency,
        timeout_seconds=spec.timeout_seconds,
        queue_max_requests=spec.queue.max_requests,
        queue_timeout_seconds=spec.queue.queue_timeout_seconds,
        cold_start_timeout_seconds=spec.queue.cold_start_timeout_seconds,
        max_model_len=min((length for length in lengths if length), default=0),
        created_unix_us=round(function.created * 1e6),
        progress=_progress(route.progress),
    )


def _progress(progress: Progress | None) -> demand_pb2.Progress | None:
    if progress is None:
        return None
    return demand_pb2.Progress(phase=progress.phase, fraction=progress.fraction, eta_seconds=progress.eta)


class Routes(demand_pb2_grpc.RoutesServicer):
    """Pushes the table to every gateway: at once when it changed, now and then when only progress did."""

    def __init__(self, progress_seconds: float = PROGRESS_SECONDS) -> None:
        self._progress_seconds = progress_seconds
        self._table: demand_pb2.RouteTable | None = None
        self._essence = b""
        self._news = asyncio.Event()
        self._pushed = 0.0
        self._later: asyncio.TimerHandle | None = None

    @property
    def table(self) -> demand_pb2.RouteTable | None:
        """The last one that was pushed; None until there was one."""
        return self._table

    def publish(self, table: demand_pb2.RouteTable) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        essence = _essence(table)
        if essence != self._essence or self._table is None:
            self._essence = essence
            self._push(table)
            return
        table.version = self._table.version
        if table == self._table:
            return
        loop = asyncio.get_running_loop()
        due = self._pushed + self._progress_seconds
        if loop.time() >= due:
            self._push(table)
        else:
            self._later = loop.call_at(due, self._push, table)

    def _push(self, table: demand_pb2.RouteTable) -> None:
        self._later = None
        table.version = self._table.version + 1 if self._table else 1
        self._table = table
        self._pushed = asyncio.get_running_loop().time()
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def Watch(
        self,
        request: demand_pb2.RoutesRequest,
        context: grpc.aio.ServicerContext[demand_pb2.RoutesRequest, demand_pb2.RouteTable],
    ) -> None:
        told = 0
        while True:
            news = self._news  # taken before the table: a push while we write is not missed
            if self._table is not None and self._table.version != told:
                told = self._table.version
                await context.write(self._table)
            await news.wait()


def _essence(table: demand_pb2.RouteTable) -> bytes:
    bare = demand_pb2.RouteTable()
    bare.CopyFrom(table)
    for function in bare.functions:
        function.progress.fraction = function.progress.eta_seconds = 0.0
    return bare.SerializeToString(deterministic=True)
