"""Cold starts as they happened: queued, planned, each unit asked and landed, servable, first token, consolidated."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter, Histogram

from forebay_api.function import FunctionKey
from forebay_api.model import Epoch, Model, Stage, UnitKind
from forebay_operator import wire
from forebay_operator.decide.seen import FunctionSeen, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Form, Prediction
from forebay_operator.fleet import Attached
from forebay_wire.v1 import demand_pb2, fleet_pb2

log = structlog.get_logger(__name__)

KEPT = 20
"""Cold starts that are remembered, over all functions."""

PATIENCE = 3.0
"""Seconds in which a worker that was told to load says that it does."""

SKEW = 0.05
"""Seconds by which the clocks of a worker and of the operator may differ."""

BUCKETS = (0.01, 0.03, 0.1, 0.3, 0.6, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)

COLD_STARTS = Counter("forebay_cold_starts_total", "Cold starts planned.")
PHASES = Histogram(
    "forebay_cold_start_seconds",
    "Phases of cold starts: plan (queued to planned), ask (planned to first byte asked of a link), and from queued on "
    "servable, first_token and consolidated.",
    ["phase"],
    buckets=BUCKETS,
)
for _phase in ("plan", "ask", "servable", "first_token", "consolidated"):
    PHASES.labels(_phase)  # from the start: a rate sees no rise where there was nothing before


@dataclass(frozen=True, slots=True)
class UnitLoad:
    """Times in unix seconds; ``landed`` None while on its way."""

    kind: UnitKind
    asked: float
    landed: float | None
    bytes: int


@dataclass(slots=True)
class ColdStart:
    """One cold start of one function. Times in unix seconds, None for what has not happened. ``epoch``, ``stages`` and
    ``predicted`` are those of the pipeline that was first planned to answer (the last one, if workers died before it
    could); ``over``: nothing more will happen."""

    key: FunctionKey
    model: Model
    epoch: Epoch
    stages: tuple[Stage, ...]
    predicted: Prediction | None
    queued_at: float
    planned_at: float
    units: dict[tuple[str, int], UnitLoad] = field(default_factory=dict)
    resident: set[tuple[str, int]] = field(default_factory=set)
    first_byte_at: float | None = None
    servable_at: float | None = None
    first_token_at: float | None = None
    consolidated_at: float | None = None
    over: bool = False

    @property
    def fraction(self) -> float:
        """Of the bytes that the first token needs, those that are there. Embedding rows are read by range: no part."""
        needed = landed = 0
        for stage in self.stages:
            for number in stage.units:
                unit = self.model.units[number]
                if unit.kind is UnitKind.EMBEDDING:
                    continue
                needed += unit.link_bytes
                if (stage.worker, number) in self.resident:
                    landed += unit.link_bytes
                elif load := self.units.get((stage.worker, number)):
                    landed += min(load.bytes, unit.link_bytes)
        return landed / needed if needed else 1.0


@dataclass(frozen=True, slots=True)
class ColdStarts:
    """Those of one function that ended with a first token: how many, when the last one did (unix seconds), and its
    seconds: ``plan`` from queued to planned, ``load`` from there to servable, ``first_token`` from there."""

    count: int
    at: float
    plan: float
    load: float
    first_token: float

    @property
    def seconds(self) -> float:
        return self.plan + self.load + self.first_token


class Timeline:
    """Remembers the last cold starts. ``ended``: of each function those that are over for who waited."""

    def __init__(self) -> None:
        self._starts: deque[ColdStart] = deque(maxlen=KEPT)
        self.ended: dict[FunctionKey, ColdStarts] = {}

    def last(self, key: FunctionKey) -> ColdStart | None:
        return next((start for start in self.newest_first() if start.key == key), None)

    def newest_first(self) -> list[ColdStart]:
        return list(reversed(self._starts))

    def keep(self, keys: Collection[FunctionKey]) -> None:
        """Forget functions that are gone."""
        self._starts = deque((start for start in self._starts if start.key in keys), maxlen=KEPT)
        self.ended = {key: ended for key, ended in self.ended.items() if key in keys}

    def planned(self, step: Form, seen: Snapshot, now: float) -> None:
        """A pipeline was just ordered; a cold start begins for whom nothing served, if anything is to be loaded."""
        backbone = seen.backbones.get(step.backbone)
        if backbone is None or _serves(step, seen.pipelines) or _holds_all(step, seen.workers):
            return
        for function in _served(step.backbone, seen.functions):
            start = self.last(function.function.key)
            if start is not None and not start.over and start.first_token_at is None and start.servable_at is None:
                start.epoch, start.stages, start.predicted = step.epoch, step.stages, step.predicted
                continue
            queued = min(now, function.demand.oldest_waiting or now)
            start = ColdStart(
                function.function.key, backbone.model, step.epoch, step.stages, step.predicted, queued, now
            )
            self._starts.append(start)
            COLD_STARTS.inc()
            PHASES.labels("plan").observe(now - queued)

    def observe(self, workers: Mapping[str, Attached], pipelines: Iterable[PipelineSeen], now: float) -> None:
        """Take in what workers report."""
        for start in self._starts:
            if not start.over:
                self._follow(start, workers, list(pipelines), now)

    def first_token(self, message: demand_pb2.FirstToken) -> None:
        start = self.last(FunctionKey(message.namespace, message.name))
        at = wire.seconds(message.first_token_unix_us)
        if start is None or at is None or start.first_token_at is not None or at < start.planned_at - SKEW:
            return
        start.first_token_at = at
        _passed(start, "first_token", at)
        self._end(start)

    def _end(self, start: ColdStart) -> None:
        """Once both are known, in whichever order they were told."""
        if start.servable_at is not None and start.first_token_at is not None:
            before = self.ended.get(start.key)
            self.ended[start.key] = _ended(
                start, start.servable_at, start.first_token_at, before.count + 1 if before else 1
            )

    def _follow(
        self, start: ColdStart, workers: Mapping[str, Attached], pipelines: list[PipelineSeen], now: float
    ) -> None:
        moving = False
        resident: dict[str, dict[int, float]] = {}
        for worker in workers.values():
            for holding in worker.report.holdings:
                if holding.model.backbone == start.model.backbone:
                    resident[worker.name] = _take(start, worker.name, holding)
                    moving |= len(resident[worker.name]) < len(holding.units)
        start.resident = {(worker, unit) for worker, units in resident.items() for unit in units}
        if start.first_byte_at is None and start.units:
            start.first_byte_at = min(load.asked for load in start.units.values())
            PHASES.labels("ask").observe(max(0.0, start.first_byte_at - start.planned_at))
        if start.servable_at is None and (landed := _all_landed(start.stages, resident)) is not None:
            start.servable_at = max(landed, start.planned_at)
            _passed(start, "servable", start.servable_at)
            self._end(start)
        alone = _alone(start.model, pipelines, resident)
        if start.servable_at is not None and (any(alone) or (not moving and not alone)):
            start.consolidated_at = now
            _passed(start, "consolidated", now)
        start.over = start.consolidated_at is not None or (start.first_byte_at is not None and not resident)


def _ended(start: ColdStart, servable: float, first: float, count: int) -> ColdStarts:
    """A pipeline's last unit may land after the first token: then loading ends with that."""
    loaded = min(servable, max(first, start.planned_at))
    plan, load = start.planned_at - start.queued_at, loaded - start.planned_at
    return ColdStarts(count, first, plan, load, max(0.0, first - loaded))


def _take(start: ColdStart, worker: str, holding: fleet_pb2.Holding) -> dict[int, float]:
    """Note the loads of one worker; its resident units, with the time at which each landed."""
    resident: dict[int, float] = {}
    for unit in holding.units:
        asked, landed = wire.seconds(unit.asked_unix_us), wire.seconds(unit.landed_unix_us)
        if unit.phase == fleet_pb2.UnitState.RESIDENT:
            resident[unit.unit] = landed or 0.0
        if asked is not None and asked >= start.planned_at - SKEW:
            kind = start.model.units[unit.unit].kind
            start.units[worker, unit.unit] = UnitLoad(kind, asked, landed, unit.bytes)
    return resident


def _all_landed(stages: Iterable[Stage], resident: Mapping[str, Mapping[int, float]]) -> float | None:
    """When the last unit of a pipeline landed; None while one is missing."""
    last = 0.0
    for stage in stages:
        held = resident.get(stage.worker, {})
        for unit in stage.units:
            if unit not in held:
                return None
            last = max(last, held[unit])
    return last


def _alone(model: Model, pipelines: Iterable[PipelineSeen], resident: Mapping[str, Mapping[int, float]]) -> list[bool]:
    """Of each worker that holds everything and was told to serve alone: whether it says that it does."""
    return [
        bool(pipeline.reported_by)
        for pipeline in pipelines
        if pipeline.backbone == model.backbone
        and pipeline.phase is PipelinePhase.FORMED
        and len(pipeline.stages) == 1
        and len(resident.get(pipeline.stages[0].worker, ())) == len(model.units)
    ]


def _serves(step: Form, pipelines: Iterable[PipelineSeen]) -> bool:
    return any(
        pipeline.backbone == step.backbone and pipeline.phase is PipelinePhase.FORMED and pipeline.epoch != step.epoch
        for pipeline in pipelines
    )


def _holds_all(step: Form, workers: Iterable[WorkerSeen]) -> bool:
    held = {
        worker.name: worker.holdings[step.backbone].resident for worker in workers if step.backbone in worker.holdings
    }
    return all(held.get(stage.worker, frozenset()).issuperset(stage.units) for stage in step.stages)


def _served(backbone: str, functions: Iterable[FunctionSeen]) -> list[FunctionSeen]:
    """Those who wait for it; when nobody waits, all whom it will serve. Whom another model serves meanwhile has no cold
    start."""
    mine = [
        function
        for function in functions
        if function.backbone == backbone and function.failure is None and not function.previous
    ]
    return [function for function in mine if function.demand.waiting] or mine


def _passed(start: ColdStart, phase: str, at: float) -> None:
    seconds = max(0.0, at - start.queued_at)
    PHASES.labels(phase).observe(seconds)
    log.info("cold start", function=str(start.key), phase=phase, epoch=str(start.epoch), seconds=round(seconds, 4))
