"""Workers and gateways as the operator meets them: real gRPC clients that do as they are told, with no model behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from forebay_api.function import FunctionKey
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc, fleet_pb2, fleet_pb2_grpc, model_pb2

CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    # They come back as soon as somebody listens, as workers and gateways do, and not when a channel's patience is over.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in spite of its name: how long one attempt may take
)
BEAT = 0.05
"""Seconds between reports when nothing changes."""

UnitPhase = fleet_pb2.UnitState
PipelinePhase = fleet_pb2.PipelineState


async def until(what: Callable[[], object], seconds: float = 8.0) -> None:
    """Wait for ``what`` to be true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.005)


def now_us() -> int:
    return round(time.time() * 1e6)


def checkpoint(backbone: str, uri: str, layers: int = 6, layer_bytes: int = 1 << 20) -> model_pb2.Model:
    kinds = ["embedding", *["layer"] * layers, "head"]
    sizes = [0, *[layer_bytes] * layers, layer_bytes]
    units = [
        model_pb2.Unit(index=index, kind=kind, link_bytes=size, resident_bytes=size, parameters=size // 4)
        for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    return model_pb2.Model(
        backbone=backbone,
        uri=uri,
        dtype="float32",
        architecture="LlamaForCausalLM",
        units=units,
        tied=True,
        hidden_size=64,
        layers=layers,
        vocab_size=1000,
        max_model_len=512,
        kv_bytes_per_token_per_layer=512,
    )


class Worker:
    """Holds, loads and forms as told. ``landing`` False: units stay on their way until ``land`` is called."""

    incarnations = itertools.count(1)

    def __init__(self, name: str, checkpoints: dict[str, model_pb2.Model | tuple[str, str]], **device: object) -> None:
        self.name = name
        self.checkpoints = checkpoints
        self.landing = True
        self.told: list[fleet_pb2.Command] = []
        self.inspections: list[fleet_pb2.Inspection] = []
        self.reports = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._talking = asyncio.Event()
        self._talking.set()
        self.report = fleet_pb2.WorkerReport(
            name=name,
            incarnation=f"{name}-{next(self.incarnations)}",
            pid=1,
            node="here",
            state="Ready",
            device=fleet_pb2.Device(
                **{
                    "kind": "cpu",
                    "name": "cpu",
                    "memory_bytes": 1 << 30,
                    "compute": ["here/cpu0"],
                    "link_bytes_per_second": 10e6,
                    **device,
                }
            ),
            addresses=model_pb2.Addresses(engine_unix=f"/{name}.engine", hop_unix=f"/{name}.hop"),
        )

    def __repr__(self) -> str:
        return f"<Worker {self.name} holds {self.holds} runs {self.runs}>"

    @property
    def holds(self) -> dict[str, list[int]]:
        return {
            holding.model.backbone: sorted(unit.unit for unit in holding.units if unit.phase == UnitPhase.RESIDENT)
            for holding in self.report.holdings
        }

    @property
    def runs(self) -> list[str]:
        return [f"{pipeline.epoch.term}.{pipeline.epoch.counter}" for pipeline in self.report.pipelines]

    def commands(self, kind: str) -> list[fleet_pb2.Command]:
        return [command for command in self.told if command.WhichOneof("command") == kind]

    async def attach(self, target: str) -> None:
        """Stay attached, and come back whenever the operator does, until ``die``."""
        self._task = asyncio.ensure_future(self._stay(target))
        await until(lambda: self.reports)

    async def die(self) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def mute(self) -> None:
        """Hang: the stream stays open, nothing is said."""
        self._talking.clear()

    def change(self) -> None:
        self._changed.set()

    def land(self, count: int = 1) -> None:
        """The next ``count`` units of each holding become resident."""
        for holding in self.report.holdings:
            states = {unit.unit: unit for unit in holding.units}
            waiting = [states[unit] for unit in holding.order if states[unit].phase != UnitPhase.RESIDENT]
            for state in waiting[:count]:
                state.phase = UnitPhase.RESIDENT
                state.asked_unix_us = state.asked_unix_us or now_us()
                state.landed_unix_us = now_us()
                state.bytes = self._unit_bytes(holding.model.backbone, state.unit)
        self.change()

    def lose(self, worker: str) -> None:
        """Notice that a neighbour is gone, as its sockets would."""
        for pipeline in self.report.pipelines:
            if worker in [stage.worker for stage in pipeline.stages]:
                pipeline.phase = PipelinePhase.BROKEN
                pipeline.reason = f"{worker} is gone"
        self.change()

    def serve(self, running: int) -> None:
        """Requests run at the pipelines of which this is the head."""
        for pipeline in self.report.pipelines:
            pipeline.running = running if pipeline.head else 0
            if pipeline.phase == PipelinePhase.DRAINING and pipeline.head and not running:
                pipeline.phase = PipelinePhase.DRAINED
        self.change()

    def _unit_bytes(self, backbone: str, unit: int) -> int:
        models = [model for model in self.checkpoints.values() if isinstance(model, model_pb2.Model)]
        return next(model.units[unit].link_bytes for model in models if model.backbone == backbone)

    async def _stay(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
            while True:
                call = fleet_pb2_grpc.FleetStub(channel).Attach()
                hearing = asyncio.ensure_future(self._hear(call))
                try:
                    await self._speak(call)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(0.02)
                finally:
                    hearing.cancel()
                    call.cancel()

    async def _speak(self, call: grpc.aio.StreamStreamCall) -> None:
        while True:
            await self._talking.wait()
            self._changed.clear()
            self.report.unix_us = now_us()
            report = fleet_pb2.WorkerReport()
            report.CopyFrom(self.report)
            answers, self.inspections = self.inspections, []
            report.inspections.extend(answers)
            await call.write(report)
            self.reports += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._changed.wait()

    async def _hear(self, call: grpc.aio.StreamStreamCall) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for command in call:
                if command.term < self.report.term:
                    continue
                self.report.term = command.term
                self.told.append(command)
                kind = command.WhichOneof("command")
                getattr(self, f"_{kind}")(getattr(command, kind))
                self.change()

    def _inspect(self, question: fleet_pb2.Inspect) -> None:
        found = self.checkpoints.get(question.uri, ("ArtifactNotFound", f"{question.uri} is not there"))
        if isinstance(found, tuple):
            self.inspections.append(fleet_pb2.Inspection(id=question.id, reason=found[0], message=found[1]))
        else:
            self.inspections.append(fleet_pb2.Inspection(id=question.id, model=found))

    def _prepare(self, prepare: fleet_pb2.Prepare) -> None:
        for known in [entry for entry in self.report.prepared if entry.backbone == prepare.model.backbone]:
            self.report.prepared.remove(known)
        samples = [fleet_pb2.ComputeSample(tokens=tokens, seconds=tokens * 1e-4) for tokens in (1, 64)]
        measured = samples if prepare.probe else []
        self.report.prepared.append(
            fleet_pb2.Prepared(backbone=prepare.model.backbone, layer=measured, head=measured[:1])
        )

    def _hold(self, hold: fleet_pb2.Hold) -> None:
        holding = next((held for held in self.report.holdings if held.model.backbone == hold.model.backbone), None)
        if holding is None:
            holding = self.report.holdings.add(model=hold.model)
        there = self.checkpoints[hold.model.uri]
        if not isinstance(there, model_pb2.Model) or there.backbone != hold.model.backbone:
            holding.error = f"ChecksumMismatch: {hold.model.uri} has changed since it was inspected"
            return
        del holding.order[:]
        holding.order.extend(hold.order)
        gone = [unit for unit in holding.units if unit.phase != UnitPhase.RESIDENT and unit.unit not in hold.order]
        for unit in gone:
            holding.units.remove(unit)
        present = {unit.unit for unit in holding.units}
        for number in hold.order:
            if number not in present:
                holding.units.add(unit=number, phase=UnitPhase.QUEUED)
        if self.landing:
            self.land(len(hold.order))

    def _drop(self, drop: fleet_pb2.Drop) -> None:
        for holding in [held for held in self.report.holdings if held.model.backbone == drop.backbone]:
            assert not drop.units, "the operator drops backbones whole"
            assert drop.backbone not in [pipeline.backbone for pipeline in self.report.pipelines], "in use"
            self.report.holdings.remove(holding)

    def _form(self, form: fleet_pb2.Form) -> None:
        self.report.counter = form.epoch.counter
        self.report.pipelines.append(
            fleet_pb2.PipelineState(
                epoch=form.epoch,
                backbone=form.model.backbone,
                stages=form.stages,
                phase=PipelinePhase.FORMED,
                head=form.stages[-1].worker == self.name,
                kv_blocks=form.kv_blocks,
                kv_blocks_free=form.kv_blocks,
                kv_bytes=1,
            )
        )

    def _drain(self, drain: fleet_pb2.Drain) -> None:
        for pipeline in self.report.pipelines:
            if pipeline.epoch == drain.epoch and pipeline.phase == PipelinePhase.FORMED:
                idle = pipeline.head and not pipeline.running
                pipeline.phase = PipelinePhase.DRAINED if idle else PipelinePhase.DRAINING

    def _dissolve(self, dissolve: fleet_pb2.Dissolve) -> None:
        for pipeline in [entry for entry in self.report.pipelines if entry.epoch == dissolve.epoch]:
            self.report.pipelines.remove(pipeline)


@dataclass
class Gateway:
    """Reports demand, and keeps the last table."""

    name: str = "gateway"
    demand: dict[FunctionKey, demand_pb2.FunctionDemand] = field(default_factory=dict)
    table: demand_pb2.RouteTable = field(default_factory=demand_pb2.RouteTable)
    tables: int = 0
    first_tokens: list[demand_pb2.FirstToken] = field(default_factory=list)
    acknowledged: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def ask(self, name: str, waiting: int = 0, in_flight: int = 0, *, ended: bool = False) -> None:
        key = FunctionKey("default", name)
        before = self.demand.get(key, demand_pb2.FunctionDemand())
        self.demand[key] = demand_pb2.FunctionDemand(
            namespace=key.namespace,
            name=key.name,
            waiting=waiting,
            in_flight=in_flight,
            oldest_waiting_unix_us=(before.oldest_waiting_unix_us or now_us()) if waiting else 0,
            last_ended_unix_us=now_us() if ended else before.last_ended_unix_us,
            prompt_bytes=40 if waiting else 0,
        )
        self._changed.set()

    def first_token(self, name: str) -> None:
        self.first_tokens.append(
            demand_pb2.FirstToken(namespace="default", name=name, request_id="r", first_token_unix_us=now_us())
        )
        self._changed.set()

    def route(self, name: str) -> demand_pb2.FunctionRoute | None:
        return next((route for route in self.table.functions if route.name == name), None)

    async def connect(self, target: str) -> None:
        self._tasks = [asyncio.ensure_future(self._report(target)), asyncio.ensure_future(self._watch(target))]
        await until(lambda: self.acknowledged)

    async def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _report(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
            while True:
                call = demand_pb2_grpc.DemandStub(channel).Report()
                try:
                    while True:
                        self._changed.clear()
                        sent = list(self.first_tokens)
                        report = demand_pb2.DemandReport(
                            gateway=self.name, functions=self.demand.values(), first_tokens=sent
                        )
                        await call.write(report)
                        if await call.read() is grpc.aio.EOF:
                            break
                        self.acknowledged += 1
                        del self.first_tokens[: len(sent)]
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(BEAT):
                                await self._changed.wait()
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(0.02)
                finally:
                    call.cancel()

    async def _watch(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target, options=CHANNEL) as channel:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for table in demand_pb2_grpc.RoutesStub(channel).Watch(
                        demand_pb2.RoutesRequest(gateway=self.name)
                    ):
                        self.table = table
                        self.tables += 1
                await asyncio.sleep(0.02)
