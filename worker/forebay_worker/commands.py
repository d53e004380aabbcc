"""Carries out what the operator says, idempotently and in the order it was said for each backbone.

Commands of a lower leader term than one obeyed before are refused: they are a deposed leader's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import structlog
from prometheus_client import Counter

from forebay_api.model import Epoch, Model, Stage
from forebay_wire.v1 import fleet_pb2, model_pb2
from forebay_worker.artifact.access import Access, Secret
from forebay_worker.checkpoints import Checkpoints, Ref
from forebay_worker.formation import Formation, StagePlace
from forebay_worker.holdings import Holdings
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError
from forebay_worker.prepare import Preparations, PrepareFailed
from forebay_worker.stage import Executor
from forebay_worker.turns import Turns
from forebay_worker.watches import Watches

log = structlog.get_logger(__name__)

REMEMBERED = 256
"""Answers, refusals and epochs kept; older ones go."""

commands_total = Counter("forebay_worker_commands_total", "Commands obeyed", ["command"])
refused_total = Counter("forebay_worker_commands_refused_total", "Commands of a deposed leader")

K = TypeVar("K")
V = TypeVar("V")


class Commands:
    """Lives on the loop. ``changed`` is called after what a report says has changed.

    ``term`` and ``counter`` are the highest obeyed. ``inspections`` are answers not yet carried; ``refusals`` are
    pipelines that could not be formed here, with the reason.
    """

    def __init__(
        self,
        worker: str,
        holdings: Holdings,
        preparations: Preparations,
        executor: Executor,
        changed: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._holdings = holdings
        self._preparations = preparations
        self._executor = executor
        self._changed = changed
        self._checkpoints = Checkpoints()
        self._turns = Turns()
        self._watches = Watches(holdings, executor, self._turns)
        self._backbones: OrderedDict[Epoch, str] = OrderedDict()
        self.term = 0
        self.counter = 0
        self.inspections: OrderedDict[str, fleet_pb2.Inspection] = OrderedDict()
        self.refusals: OrderedDict[Epoch, tuple[fleet_pb2.Form, str]] = OrderedDict()

    def obey(self, command: fleet_pb2.Command) -> None:
        """Begin to carry out ``command``; what becomes of it is in the reports."""
        kind = command.WhichOneof("command")
        if command.term < self.term:
            refused_total.inc()
            log.warning("command.refused", command=kind, term=command.term, obeyed=self.term)
            return
        if command.term > self.term:
            self.term, self.counter = command.term, 0
            self._changed()
        if kind is None:
            return  # only says the term
        commands_total.labels(kind).inc()
        match kind:
            case "inspect":
                self._turns.start(kind, self._inspect(command.inspect))
            case "prepare":
                self._turns.start(kind, self._prepare(command.prepare), command.prepare.model.backbone)
            case "hold":
                self._turns.start(kind, self._hold(command.hold), command.hold.model.backbone)
            case "drop":
                self._turns.start(kind, self._drop(command.drop), command.drop.backbone)
            case "form":
                self._note(_epoch(command.form.epoch), command.form.model.backbone)
                self._begin_form(command.form)
            case "drain":
                epoch = _epoch(command.drain.epoch)
                self._turns.start(kind, self._drain(epoch), self._backbones.get(epoch, ""))
            case "dissolve":
                epoch = _epoch(command.dissolve.epoch)
                self._turns.start(kind, self._dissolve(epoch), self._backbones.get(epoch, ""))

    def carried(self, report: fleet_pb2.WorkerReport) -> None:
        """The operator has been sent these answers."""
        for inspection in report.inspections:
            self.inspections.pop(inspection.id, None)

    async def close(self) -> None:
        await self._turns.close()
        self._watches.close()
        self._checkpoints.close()

    def _note(self, epoch: Epoch, backbone: str) -> None:
        if epoch.term == self.term:
            self.counter = max(self.counter, epoch.counter)
        _remember(self._backbones, epoch, backbone)

    async def _inspect(self, ask: fleet_pb2.Inspect) -> None:
        answer = fleet_pb2.Inspection(id=ask.id)
        try:
            access = Access(ask.revision, ask.digest, Secret(ask.credentials))
            checkpoint = await self._checkpoints.inspect(ask.uri, ask.dtype or "auto", access)
            answer.model.CopyFrom(model_message(checkpoint.model))
        except CheckpointError as error:
            answer.reason, answer.message = error.reason, error.message
        _remember(self.inspections, ask.id, answer)
        self._changed()

    async def _prepare(self, ask: fleet_pb2.Prepare) -> None:
        try:
            checkpoint = await self._open(Ref.of(ask.model))
        except CheckpointError as error:
            self._preparations.refuse(ask.model.backbone, f"{error.reason}: {error.message}")
            return
        self._preparations.begin(checkpoint)
        if ask.probe:  # out of turn: loading must not wait for it
            self._turns.start("probe", self._preparations.measure(checkpoint))

    async def _hold(self, ask: fleet_pb2.Hold) -> None:
        ref = Ref.of(ask.model)
        if ref.remote:
            self._watches.retry(ref.backbone, lambda: self._hold(ask))
        try:
            checkpoint = await self._open(ref)
            if beyond := [unit for unit in ask.order if unit >= len(checkpoint.model.units)]:
                raise CheckpointError(
                    "InvalidCheckpoint", f"no unit {beyond[0]} in {len(checkpoint.model.units)} units"
                )
            self._watches.begin(ref, checkpoint)
        except CheckpointError as error:
            self._holdings.refuse(ref, f"{error.reason}: {error.message}")
            return
        self._holdings.hold(checkpoint, ask.order, ask.urgent)
        self._preparations.begin(checkpoint)

    async def _drop(self, ask: fleet_pb2.Drop) -> None:
        await self._holdings.drop(ask.backbone, ask.units)
        if self._holdings.checkpoint(ask.backbone) is None:
            self._watches.end(ask.backbone)

    def _begin_form(self, ask: fleet_pb2.Form) -> None:
        try:
            formation = _formation(ask, self._worker)
        except ValueError as error:
            self._refuse(ask, str(error))
            return
        self._executor.announce(formation)
        self._turns.start("form", self._form(ask, formation), ask.model.backbone)

    async def _form(self, ask: fleet_pb2.Form, formation: Formation) -> None:
        formed = False
        try:
            await self._preparations.begin(await self._open(Ref.of(ask.model)))
            self._executor.form(formation)
            formed = True
        except CheckpointError as error:
            self._refuse(ask, f"{error.reason}: {error.message}")
        except PrepareFailed as error:
            self._refuse(ask, str(error))
        finally:
            if not formed:
                self._executor.refuse(formation)

    def _refuse(self, ask: fleet_pb2.Form, reason: str) -> None:
        epoch = _epoch(ask.epoch)
        log.error("form.refused", backbone=ask.model.backbone, epoch=str(epoch), reason=reason)
        _remember(self.refusals, epoch, (ask, reason))
        self._changed()

    async def _drain(self, epoch: Epoch) -> None:
        self._executor.drain(epoch)

    async def _dissolve(self, epoch: Epoch) -> None:
        self._backbones.pop(epoch, None)
        if self.refusals.pop(epoch, None):
            self._changed()
        self._executor.dissolve(epoch, "dissolved by the operator")

    async def _open(self, ref: Ref) -> Checkpoint:
        """The checkpoint that is being held, else what its uri leads to. Raises CheckpointError."""
        held = self._holdings.checkpoint(ref.backbone)
        if held and (held.artifact is None or held.artifact.access == ref.access):
            return held
        return await self._checkpoints.open(ref)  # also to learn new credentials


def model_message(model: Model) -> model_pb2.Model:
    return model_pb2.Model(**{**asdict(model), "units": [model_pb2.Unit(**asdict(unit)) for unit in model.units]})


def _formation(ask: fleet_pb2.Form, worker: str) -> Formation:
    """Raises ValueError when the worker has no stage in it."""
    stages = tuple(
        StagePlace(Stage(stage.worker, stage.first, stage.last), stage.hop_unix, stage.hop_tcp) for stage in ask.stages
    )
    names = [place.stage.worker for place in stages]
    if worker not in names:
        raise ValueError(f"worker {worker} has no stage in pipeline {_epoch(ask.epoch)}")
    return Formation(
        epoch=_epoch(ask.epoch),
        backbone=ask.model.backbone,
        stages=stages,
        index=names.index(worker),
        kv_blocks=ask.kv_blocks,
        block_tokens=ask.block_tokens,
        steps_in_flight=ask.steps_in_flight,
        max_model_len=ask.max_model_len,
    )


def _epoch(message: model_pb2.Epoch) -> Epoch:
    return Epoch(message.term, message.counter)


def _remember(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)
