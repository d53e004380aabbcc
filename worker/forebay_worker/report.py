"""The whole state of this worker as one message, read from those who know it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from forebay_api.model import Epoch, Stage
from forebay_wire.v1 import fleet_pb2, model_pb2
from forebay_worker import process
from forebay_worker.commands import Commands
from forebay_worker.device import Device
from forebay_worker.formation import Fault, Phase, PipelineStatus, Sample
from forebay_worker.holdings import Holdings
from forebay_worker.load import plan
from forebay_worker.load.stream import Loader, UnitLoad
from forebay_worker.prepare import Preparations
from forebay_worker.stage import Executor
from forebay_worker.states import WorkerState
from forebay_worker.zygote import Seat

PHASES = {
    Phase.FORMED: fleet_pb2.PipelineState.FORMED,
    Phase.DRAINING: fleet_pb2.PipelineState.DRAINING,
    Phase.DRAINED: fleet_pb2.PipelineState.DRAINED,
    Phase.BROKEN: fleet_pb2.PipelineState.BROKEN,
}
UNIT_PHASES = {
    plan.Phase.QUEUED: fleet_pb2.UnitState.QUEUED,
    plan.Phase.LOADING: fleet_pb2.UnitState.LOADING,
    plan.Phase.RESIDENT: fleet_pb2.UnitState.RESIDENT,
}


class Reporter:
    """Makes reports. ``addresses`` are where the servers of this worker listen."""

    def __init__(
        self,
        seat: Seat,
        device: Device,
        addresses: model_pb2.Addresses,
        loader: Loader,
        executor: Executor,
        holdings: Holdings,
        preparations: Preparations,
        commands: Commands,
    ) -> None:
        self._seat = seat
        self._device = device
        self._addresses = addresses
        self._loader = loader
        self._executor = executor
        self._holdings = holdings
        self._preparations = preparations
        self._commands = commands

    def report(self, state: WorkerState, faults: Iterable[Fault]) -> fleet_pb2.WorkerReport:
        pipelines = self._executor.pipelines()
        resident, peak = process.memory()
        message = fleet_pb2.WorkerReport(
            name=self._seat.name,
            incarnation=self._seat.incarnation,
            pid=self._seat.pid,
            node=self._seat.config.node,
            state=state.value,
            device=self._describe_device(),
            addresses=self._addresses,
            holdings=self._list_holdings(),
            pipelines=[*map(_pipeline, pipelines), *self._list_refusals()],
            prepared=self._list_prepared(),
            inspections=self._commands.inspections.values(),
            faults=[
                fleet_pb2.Fault(
                    reason=fault.reason, message=fault.message, unix_us=fault.unix_us, backbone=fault.backbone
                )
                for fault in faults
            ],
            term=self._commands.term,
            counter=self._commands.counter,
            bytes_read=self._loader.bytes_read,
            row_bytes_read=self._loader.row_bytes_read,
            kv_reserved_bytes=sum(pipeline.kv_bytes for pipeline in pipelines),
            process_bytes=resident,
            process_peak_bytes=peak,
            bare_bytes=self._holdings.bare_bytes or resident,
            pod_uid=self._seat.config.pod_uid,
            unix_us=time.time_ns() // 1000,
        )
        message.resident_bytes = self._resident_bytes(message.holdings)
        return message

    def _describe_device(self) -> fleet_pb2.Device:
        config = self._seat.config
        return fleet_pb2.Device(
            kind=self._device.kind,
            name=self._device.name,
            uuid=self._device.uuid,
            memory_bytes=self._device.memory.budget,
            compute=self._device.compute,
            link_bytes_per_second=self._loader.rate,
            bucket=self._seat.bucket_name,
            bucket_bytes_per_second=config.shared_link or 0.0,
        )

    def _list_holdings(self) -> list[fleet_pb2.Holding]:
        return [
            fleet_pb2.Holding(
                model=model_pb2.ModelRef(backbone=backbone, uri=held.ref.uri, dtype=held.ref.dtype),
                units=[_unit(load) for load in self._loader.states(backbone)],
                order=held.order,
                error=held.error,
            )
            for backbone, held in self._holdings.seen().items()
        ]

    def _resident_bytes(self, holdings: Iterable[fleet_pb2.Holding]) -> int:
        total = 0
        for holding in holdings:
            checkpoint = self._holdings.checkpoint(holding.model.backbone)
            if checkpoint:
                units = checkpoint.model.units
                there = (state.unit for state in holding.units if state.phase == fleet_pb2.UnitState.RESIDENT)
                total += sum(units[unit].resident_bytes for unit in there)
        return total

    def _list_prepared(self) -> list[fleet_pb2.Prepared]:
        return [
            fleet_pb2.Prepared(
                backbone=backbone,
                layer=_samples(seen.probe.layer if seen.probe else ()),
                head=_samples(seen.probe.head if seen.probe else ()),
                error=seen.error,
            )
            for backbone, seen in self._preparations.seen().items()
        ]

    def _list_refusals(self) -> list[fleet_pb2.PipelineState]:
        return [
            fleet_pb2.PipelineState(
                epoch=form.epoch,
                backbone=form.model.backbone,
                stages=form.stages,
                phase=fleet_pb2.PipelineState.BROKEN,
                head=form.stages[-1].worker == self._seat.name if form.stages else False,
                reason=reason,
            )
            for form, reason in self._commands.refusals.values()
        ]


def _pipeline(status: PipelineStatus) -> fleet_pb2.PipelineState:
    return fleet_pb2.PipelineState(
        epoch=_epoch(status.epoch),
        backbone=status.backbone,
        stages=[_stage(stage) for stage in status.stages],
        phase=PHASES[status.phase],
        head=status.head,
        running=status.running,
        waiting=status.waiting,
        kv_blocks=status.kv_blocks,
        kv_blocks_free=status.kv_blocks_free,
        reason=status.reason,
        kv_bytes=status.kv_bytes,
    )


def _unit(load: UnitLoad) -> fleet_pb2.UnitState:
    return fleet_pb2.UnitState(
        unit=load.unit,
        phase=UNIT_PHASES[load.phase],
        asked_unix_us=load.asked_unix_us,
        landed_unix_us=load.landed_unix_us,
        bytes=load.bytes,
    )


def _epoch(epoch: Epoch) -> model_pb2.Epoch:
    return model_pb2.Epoch(term=epoch.term, counter=epoch.counter)


def _stage(stage: Stage) -> model_pb2.Stage:
    return model_pb2.Stage(worker=stage.worker, first=stage.first, last=stage.last)


def _samples(samples: Iterable[Sample]) -> list[fleet_pb2.ComputeSample]:
    return [fleet_pb2.ComputeSample(tokens=sample.tokens, seconds=sample.seconds) for sample in samples]
