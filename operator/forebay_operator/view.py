"""All that `forebay get`, `forebay timeline` and the page show, as one JSON object; read-only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from forebay_api.conditions import Condition
from forebay_api.function import FunctionKey
from forebay_api.model import Stage, Unit
from forebay_operator import wire
from forebay_operator.decide.decision import Input
from forebay_operator.decide.seen import BackboneSeen, FunctionSeen, PipelineSeen, Snapshot
from forebay_operator.decisions import Decision
from forebay_operator.fleet import Attached
from forebay_operator.progress import Progress
from forebay_operator.status import FunctionStatus
from forebay_operator.timeline import ColdStart
from forebay_wire.v1 import fleet_pb2, view_pb2, view_pb2_grpc

PUSH_SECONDS = 0.1
"""Shortest time between two snapshots to one watcher."""

REST_FACTOR = 4.0
"""And this many times as long as it took to draw: who watches a thousand functions must not hold up passes."""

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to show. ``workers`` are those attached now; ``scaling`` is the present decision, ``decided`` gives
    the last ones that differed, newest first."""

    seen: Snapshot
    statuses: Mapping[FunctionKey, FunctionStatus]
    progress: Mapping[FunctionKey, Progress | None]
    workers: Mapping[str, Attached]
    cold_starts: Iterable[ColdStart]
    scaling: Mapping[FunctionKey, Decision]
    decided: Callable[[FunctionKey], Sequence[Decision]]
    operator: Json


def draw(scene: Scene) -> Json:
    pools = {worker.name: worker.pool for worker in scene.seen.workers}
    return {
        "functions": [_function(function, scene) for function in scene.seen.functions],
        "workers": [_worker(worker, pools.get(name, "")) for name, worker in sorted(scene.workers.items())],
        "pipelines": [_pipeline(pipeline, scene.workers) for pipeline in scene.seen.pipelines],
        "models": [_model(backbone) for backbone in scene.seen.backbones.values()],
        "coldStarts": [_cold_start(start) for start in scene.cold_starts],
        "operator": scene.operator,
    }


def _function(function: FunctionSeen, scene: Scene) -> Json:
    key, model = function.function.key, function.function.spec.model
    status = scene.statuses[key]
    progress = scene.progress.get(key)
    return {
        "namespace": key.namespace,
        "name": key.name,
        "uri": model.uri,
        "dtype": model.dtype,
        "revision": model.revision or "",
        "model": function.function.served_name,
        "backbone": function.backbone,
        "previous": function.previous,
        "state": status.state,
        "reason": status.reason,
        "message": status.message,
        "ready": status.ready,
        "desired": status.desired,
        "waiting": function.demand.waiting,
        "inFlight": function.demand.in_flight,
        "url": status.url,
        "conditions": [_condition(condition) for condition in status.conditions],
        "scaling": _scaling(scene.scaling.get(key), scene.decided(key)),
        "progress": progress
        and {"phase": progress.phase, "fraction": round(progress.fraction, 4), "etaSeconds": round(progress.eta, 2)},
    }


def _scaling(present: Decision | None, decided: Sequence[Decision]) -> Json | None:
    """None until the first pass."""
    if present is None:
        return None
    return {**_decision(present), "decisions": [_decision(decision) for decision in decided]}


def _decision(decision: Decision) -> Json:
    return {
        "time": decision.at,
        "desired": decision.desired,
        "current": decision.current,
        "reason": decision.reason,
        "limit": decision.limit,
        "message": decision.message,
        "inputs": [_input(given) for given in decision.inputs],
        "paid": list(decision.paid),
        "received": list(decision.received),
    }


def _input(given: Input) -> Json:
    return {
        "name": given.name,
        "value": given.value,
        "sampledAt": given.sampled_at,
        "source": given.source,
    }


def _condition(condition: Condition) -> Json:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": condition.since,
    }


def _worker(worker: Attached, pool: str) -> Json:
    report = worker.report
    device = report.device
    return {
        "name": report.name,
        "pid": report.pid,
        "incarnation": report.incarnation,
        "node": report.node,
        "pool": pool,
        "device": device.name,
        "state": report.state,
        "memoryBytes": device.memory_bytes,
        "residentBytes": report.resident_bytes,
        "kvReservedBytes": report.kv_reserved_bytes,
        "bytesRead": report.bytes_read,
        "rowBytesRead": report.row_bytes_read,
        "processBytes": report.process_bytes,
        "processPeakBytes": report.process_peak_bytes,
        "bareBytes": report.bare_bytes,
        "linkBytesPerSecond": device.link_bytes_per_second,
        "bucket": device.bucket,
        "bucketBytesPerSecond": device.bucket_bytes_per_second,
        "compute": list(device.compute),
        "holds": _units(report, resident=True),
        "loading": _units(report, resident=False),
        "prepared": sorted(prepared.backbone for prepared in report.prepared if not prepared.error),
        "metricsUrl": report.addresses.metrics,
        "lastSeen": worker.heard,
    }


def _units(report: fleet_pb2.WorkerReport, *, resident: bool) -> Json:
    """Unit numbers per backbone: resident ones ascending, or those on their way in the order in which they load."""
    found: Json = {}
    for holding in report.holdings:
        units = [unit.unit for unit in holding.units if (unit.phase == fleet_pb2.UnitState.RESIDENT) == resident]
        places = {} if resident else {unit: place for place, unit in enumerate(holding.order)}
        if units:
            found[holding.model.backbone] = sorted(units, key=lambda unit: (places.get(unit, 0), unit))
    return found


def _pipeline(pipeline: PipelineSeen, workers: Mapping[str, Attached]) -> Json:
    head = pipeline.stages[-1].worker
    return {
        "epoch": str(pipeline.epoch),
        "backbone": pipeline.backbone,
        "phase": pipeline.phase,
        "stages": [_stage(stage) for stage in pipeline.stages],
        "head": head,
        "running": pipeline.running,
        "waiting": pipeline.waiting,
        "kvBlocks": pipeline.kv_blocks,
        "kvBlocksFree": _free_blocks(pipeline, workers.get(head)),
    }


def _free_blocks(pipeline: PipelineSeen, head: Attached | None) -> int:
    told = head.report.pipelines if head else ()
    return next((state.kv_blocks_free for state in told if wire.epoch(state.epoch) == pipeline.epoch), 0)


def _stage(stage: Stage) -> Json:
    return {"worker": stage.worker, "first": stage.first, "last": stage.last}


def _model(backbone: BackboneSeen) -> Json:
    model = backbone.model
    return {
        "backbone": model.backbone,
        "uri": model.uri,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "units": [_unit(unit) for unit in model.units],
        "totalBytes": model.link_bytes,
        "tied": model.tied,
        "hiddenSize": model.hidden_size,
        "layers": model.layers,
        "vocabSize": model.vocab_size,
        "maxModelLen": model.max_model_len,
        "kvBytesPerTokenPerLayer": model.kv_bytes_per_token_per_layer,
        "layerSeconds": [list(sample) for sample in backbone.costs.layer],
        "headSeconds": [list(sample) for sample in backbone.costs.head],
    }


def _unit(unit: Unit) -> Json:
    return {
        "index": unit.index,
        "kind": unit.kind,
        "linkBytes": unit.link_bytes,
        "residentBytes": unit.resident_bytes,
        "parameters": unit.parameters,
    }


def _cold_start(start: ColdStart) -> Json:
    predicted = start.predicted
    return {
        "namespace": start.key.namespace,
        "name": start.key.name,
        "backbone": start.model.backbone,
        "epoch": str(start.epoch),
        "queuedAt": start.queued_at,
        "plannedAt": start.planned_at,
        "predicted": predicted
        and {
            "wait": predicted.wait,
            "servable": predicted.servable,
            "firstToken": predicted.first_token,
            "promptTokens": predicted.prompt_tokens,
        },
        "stages": [_stage(stage) for stage in start.stages],
        "units": [
            {
                "worker": worker,
                "unit": unit,
                "kind": load.kind,
                "askedAt": load.asked,
                "landedAt": load.landed,
                "bytes": load.bytes,
            }
            for (worker, unit), load in sorted(start.units.items(), key=lambda item: (item[0][0], item[1].asked))
        ],
        "firstByteAt": start.first_byte_at,
        "servableAt": start.servable_at,
        "firstTokenAt": start.first_token_at,
        "consolidatedAt": start.consolidated_at,
    }


class View(view_pb2_grpc.ViewServicer):
    """Draws only while somebody watches, and once for all of them. ``draw`` gives the present object."""

    def __init__(self, draw: Callable[[], Json]) -> None:
        self._draw = draw
        self._news = asyncio.Event()
        self._text: str | None = None
        self._took = 0.0

    def changed(self) -> None:
        """There is something new to show."""
        self._text = None
        news, self._news = self._news, asyncio.Event()
        news.set()

    def text(self) -> str:
        if self._text is None:
            began = time.monotonic()
            self._text = json.dumps(self._draw(), separators=(",", ":"))
            self._took = time.monotonic() - began
        return self._text

    async def Watch(
        self,
        request: view_pb2.ViewRequest,
        context: grpc.aio.ServicerContext[view_pb2.ViewRequest, view_pb2.Snapshot],
    ) -> None:
        shown = ""
        while True:
            news = self._news
            if (text := self.text()) != shown:
                shown = text
                await context.write(view_pb2.Snapshot(json=text))
            if request.once:
                return
            await news.wait()
            await asyncio.sleep(max(PUSH_SECONDS, REST_FACTOR * self._took))
