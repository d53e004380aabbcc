"""What workers report, as decisions see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from forebay_api.model import Epoch
from forebay_operator import wire
from forebay_operator.decide.seen import HoldingSeen, Link, PipelinePhase, PipelineSeen, WorkerSeen
from forebay_wire.v1 import fleet_pb2

UNKNOWN_RATE = 1e9
"""Bytes per second of a link where nobody has emulated or measured any like it yet: about one NVMe disk. `forebay plan`
takes it, too."""

PHASES: Mapping[int, PipelinePhase] = {
    fleet_pb2.PipelineState.FORMED: PipelinePhase.FORMED,
    fleet_pb2.PipelineState.DRAINING: PipelinePhase.DRAINING,
    fleet_pb2.PipelineState.DRAINED: PipelinePhase.DRAINED,
    fleet_pb2.PipelineState.BROKEN: PipelinePhase.BROKEN,
}

WEIGHTS = frozenset({"NotANumber", "StepFailed"})
"""Faults of which the model may be the cause."""

WORSE = tuple(PipelinePhase)
"""From good to bad."""


def worker_seen(report: fleet_pb2.WorkerReport) -> WorkerSeen:
    """As it says itself: its link has a rate of 0 until something came over it."""
    device = report.device
    return WorkerSeen(
        name=report.name,
        incarnation=report.incarnation,
        ready=report.state == "Ready",
        draining=report.state == "Draining",
        memory=device.memory_bytes,
        link=Link(
            rate=device.link_bytes_per_second,
            bucket=device.bucket,
            bucket_rate=device.bucket_bytes_per_second or float("inf"),
        ),
        compute=frozenset(device.compute),
        node=report.node,
        holdings={holding.model.backbone: _holding_seen(holding) for holding in report.holdings},
        kv_bytes={wire.epoch(pipeline.epoch): pipeline.kv_bytes for pipeline in report.pipelines},
        prepared=frozenset(prepared.backbone for prepared in report.prepared if not prepared.error),
        probed=frozenset(prepared.backbone for prepared in report.prepared if prepared.layer),
        not_numbers=frozenset(fault.backbone for fault in report.faults if fault.reason in WEIGHTS),
    )


def _holding_seen(holding: fleet_pb2.Holding) -> HoldingSeen:
    return HoldingSeen(
        resident=frozenset(unit.unit for unit in holding.units if unit.phase == fleet_pb2.UnitState.RESIDENT),
        order=tuple(holding.order),
        bytes_loaded=sum(unit.bytes for unit in holding.units),
        error=holding.error,
    )


def pipelines_seen(reports: Iterable[fleet_pb2.WorkerReport]) -> dict[Epoch, PipelineSeen]:
    """Every reported pipeline once: the worst of its workers' phases, the head's counts."""
    found: dict[Epoch, PipelineSeen] = {}
    for report in reports:
        for pipeline in report.pipelines:
            epoch = wire.epoch(pipeline.epoch)
            seen = found.get(epoch) or PipelineSeen(
                epoch, pipeline.backbone, wire.stages(pipeline), PipelinePhase.FORMED
            )
            found[epoch] = _joined(seen, pipeline, report.name)
    return found


def _joined(seen: PipelineSeen, pipeline: fleet_pb2.PipelineState, worker: str) -> PipelineSeen:
    phase = PHASES[pipeline.phase]
    if phase is PipelinePhase.DRAINED and not pipeline.head:
        phase = PipelinePhase.DRAINING  # only the head knows of requests
    seen = replace(
        seen, phase=max(seen.phase, phase, key=WORSE.index), reported_by=seen.reported_by | frozenset((worker,))
    )
    if not pipeline.head:
        return seen
    return replace(seen, running=pipeline.running, waiting=pipeline.waiting, kv_blocks=pipeline.kv_blocks)


def change(before: fleet_pb2.WorkerReport, after: fleet_pb2.WorkerReport, seen: tuple[WorkerSeen, WorkerSeen]) -> str:
    """How much a report says that the one before did not: "decisive", "progress" or "" (nothing that anyone waits for).

    Bytes of a unit on its way and the measured rate of a link are progress: to plan anew at each of them would plan a
    hundred times a second.
    """
    old, new = (_without_progress(worker) for worker in seen)
    if old != new or _decisive(before) != _decisive(after):
        return "decisive"
    return "progress" if seen[0] != seen[1] else ""


def _without_progress(worker: WorkerSeen) -> WorkerSeen:
    holdings = {backbone: replace(holding, bytes_loaded=0) for backbone, holding in worker.holdings.items()}
    return replace(worker, holdings=holdings, link=replace(worker.link, rate=0.0))


def _decisive(report: fleet_pb2.WorkerReport) -> list[object]:
    pipelines: list[object] = [
        (pipeline.epoch.term, pipeline.epoch.counter, pipeline.phase, pipeline.running, pipeline.waiting)
        for pipeline in report.pipelines
    ]
    prepared: list[object] = [(entry.backbone, entry.error, len(entry.layer)) for entry in report.prepared]
    return pipelines + prepared
