"""What a decision may know: one frozen snapshot of functions, backbones, workers and pipelines."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from forebay_api.function import Function
from forebay_api.model import Epoch, Model, Stage
from forebay_operator.decide.load import Load, Measured, Memory
from forebay_operator.decide.pressure import Turns
from forebay_operator.decide.steps import Prediction


@dataclass(frozen=True, slots=True)
class Link:
    """The path by which a worker gets weights. Rates in bytes per second; links that name one ``bucket`` share it."""

    rate: float
    bucket: str = ""
    bucket_rate: float = float("inf")


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured compute of one backbone. Seconds of one decoder layer (or the head) for a step of T tokens are
    interpolated from samples (tokens, seconds), ascending by tokens; hop = seconds from stage to stage within a node,
    far_hop = to another node."""

    layer: tuple[tuple[int, float], ...] = ()
    head: tuple[tuple[int, float], ...] = ()
    hop: float = 0.0005
    far_hop: float = 0.001


@dataclass(frozen=True, slots=True)
class HoldingSeen:
    """What a worker has of one backbone. ``order`` is the load order it was last told, resident units included.

    ``leaving``: it was told to drop all of it; the memory is taken until the holding is gone from its report."""

    resident: frozenset[int] = frozenset()
    order: tuple[int, ...] = ()
    urgent: int = 0
    bytes_loaded: int = 0
    error: str = ""
    leaving: bool = False


NOTHING = HoldingSeen()


class PipelinePhase(StrEnum):
    FORMED = "Formed"
    DRAINING = "Draining"
    DRAINED = "Drained"
    BROKEN = "Broken"


@dataclass(frozen=True, slots=True)
class PipelineSeen:
    """A pipeline as its workers report it; phase is the worst of theirs, counts are the head's."""

    epoch: Epoch
    backbone: str
    stages: tuple[Stage, ...]
    phase: PipelinePhase
    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0
    reported_by: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """``memory`` is the budget for units and KV; ``compute`` names the resources it computes on.

    ``prepared``: backbones whose skeleton and tokenizer it has, or was told to make; ``probed``: those whose compute it
    measured, or was told to measure. ``not_numbers``: those whose answers were no numbers there. ``pool``: the one it
    belongs to, empty where there are none: it serves functions of every pool. ``draining``: it is about to end, takes
    nothing new and finishes what runs."""

    name: str
    incarnation: str
    ready: bool
    memory: int
    link: Link
    compute: frozenset[str]
    node: str = ""
    pool: str = ""
    holdings: Mapping[str, HoldingSeen] = field(default_factory=dict)
    kv_bytes: Mapping[Epoch, int] = field(default_factory=dict)
    prepared: frozenset[str] = frozenset()
    probed: frozenset[str] = frozenset()
    not_numbers: frozenset[str] = frozenset()
    draining: bool = False

    def serves(self, pool: str) -> bool:
        return self.pool in ("", pool)


@dataclass(frozen=True, slots=True)
class BackboneSeen:
    """An inspected model. ``last_used`` is unix seconds of the last request's end over its functions (0 = never)."""

    model: Model
    costs: Costs = Costs()
    last_used: float = 0.0


@dataclass(frozen=True, slots=True)
class DemandSeen:
    """What all gateways report of one function, in requests; times in unix seconds (0 = never).

    ``load``: means of what they counted. ``blind`` = a gateway is missing, so nothing may be concluded from low
    numbers."""

    waiting: int = 0
    in_flight: int = 0
    oldest_waiting: float = 0.0
    last_ended: float = 0.0
    prompt_bytes: int = 0
    load: Load = Load()
    blind: bool = False


@dataclass(frozen=True, slots=True)
class FunctionSeen:
    """``backbone`` is empty until inspected; ``failure`` is (reason, message) of a terminal error.

    ``inspecting``: a worker was told to inspect its model and has not answered yet. ``previous``: its model changed,
    and this backbone, the one before, serves it until ``backbone`` can. ``trouble``: (reason, message) of what keeps
    its model from being inspected and passes by itself. ``vain``: workers that were asked about its model and could
    not say what it is, and when last (unix seconds). ``measured``: None where no Prometheus is asked. ``memory``:
    what the last scaling decision left."""

    function: Function
    backbone: str = ""
    demand: DemandSeen = DemandSeen()
    failure: tuple[str, str] | None = None
    first_seen: float = 0.0
    inspecting: bool = False
    previous: str = ""
    trouble: tuple[str, str] | None = None
    vain: Mapping[str, float] = field(default_factory=dict)
    measured: Measured | None = None
    memory: Memory = Memory()

    @property
    def serving(self) -> str:
        """The backbone that its requests go to."""
        return self.previous or self.backbone

    def reader(self, able: Iterable[WorkerSeen]) -> str | None:
        """Which of ``able`` is to be asked about its model: one that never failed to say, or else failed longest ago.
        Its node may be broken, or its way to the source."""
        return min((worker.name for worker in able), key=lambda name: (self.vain.get(name, 0.0), name), default=None)


class Book(NamedTuple):
    """What a worker's memory is spoken for, in bytes: by each backbone that it holds; ``free``: what is left, KV paid,
    below zero when the budget is overdrawn. ``urgent``: what its link brings first of each backbone, as far as was
    reported; ``owed``: of all of them. ``serves``: backbones that it has pipelines of."""

    held: Mapping[str, int]
    free: int
    urgent: Mapping[str, int]
    owed: int
    serves: int


@dataclass(frozen=True, slots=True)
class Able:
    """Who may serve a backbone, the preferred first; by name, the bytes that each could still give to it, and those
    that its link brings first, where there are some: see `ledger`."""

    workers: tuple[WorkerSeen, ...]
    rooms: Mapping[str, int]
    owed: Mapping[str, int]


class Answer(NamedTuple):
    """What a search for a cut came to: of each stage, which of the workers that were looked at, its first unit and its
    last; none where nothing fits."""

    segments: tuple[tuple[int, int, int], ...]
    prediction: Prediction


LASTING = "places", "pooled", "outside", "draining", "held", "cuts"
"""Of a snapshot, what is true of all that follow from it, or says itself what it follows from."""


@dataclass(frozen=True)
class Snapshot:
    """All that a decision may know. ``next_epoch`` is above everything reported. ``pools``: those that exist, None
    where there is no such thing. ``turns``: what the pass before left.

    Without slots, because what is asked over and over is worked out once: see the cached properties. A snapshot that
    follows from another one takes over what is the same in it."""

    functions: tuple[FunctionSeen, ...]
    backbones: Mapping[str, BackboneSeen]
    workers: tuple[WorkerSeen, ...]
    pipelines: tuple[PipelineSeen, ...]
    next_epoch: Epoch
    pools: frozenset[str] | None = None
    turns: Turns = field(default_factory=Turns)

    def with_turns(self, turns: Turns) -> Snapshot:
        """Nothing that is worked out depends on them."""
        after = replace(self, turns=turns)
        after.__dict__.update({**self.__dict__, "turns": turns})
        return after

    def with_workers(self, changed: Mapping[str, WorkerSeen]) -> Snapshot:
        """With these instead of those of the same names that it has."""
        after = replace(self, workers=tuple([changed.get(worker.name, worker) for worker in self.workers]))
        self._hand_on(after, *LASTING, "by_backbone", "by_worker", "served")
        after.books.update(self.books)  # each says which worker it is of
        after.__dict__["named"] = {**self.named, **changed}
        after.__dict__["holders"] = self._holders_with(changed)
        after.formed.update(self.formed)
        for backbone in {backbone for name in changed for backbone in self.served.get(name, ())}:
            after.formed.pop(backbone, None)
        return after

    def _holders_with(self, changed: Mapping[str, WorkerSeen]) -> Mapping[str, tuple[WorkerSeen, ...]]:
        """`holders`, when some workers have ``changed``. What they had they have still, if only to leave it."""
        found = dict(self.holders)
        for backbone in {backbone for worker in changed.values() for backbone in worker.holdings}:
            before = found.get(backbone, ())
            after = {worker.name: worker for worker in before}
            after |= {name: worker for name, worker in changed.items() if backbone in worker.holdings}
            names = sorted(after, key=self.places.__getitem__) if len(after) > len(before) else after
            found[backbone] = tuple([after[name] for name in names])
        return found

    def with_pipelines(
        self, pipelines: tuple[PipelineSeen, ...], touched: Sequence[PipelineSeen], next_epoch: Epoch | None = None
    ) -> Snapshot:
        """With these instead of those it has; ``touched``: all in which the two differ."""
        after = replace(self, pipelines=pipelines, next_epoch=next_epoch or self.next_epoch)
        self._hand_on(after, *LASTING, "named", "holders", "_ready")
        after.books.update(self.books)
        after.formed.update(self.formed)
        for pipeline in touched:
            after.formed.pop(pipeline.backbone, None)
        for name in {stage.worker for pipeline in touched for stage in pipeline.stages}:
            after.books.pop(name, None)
        by_backbone = dict(self.by_backbone)
        for backbone in {pipeline.backbone for pipeline in touched}:
            by_backbone.pop(backbone, None)
            if found := [pipeline for pipeline in pipelines if pipeline.backbone == backbone]:
                by_backbone[backbone] = _preferred(found)
        after.__dict__["by_backbone"] = by_backbone
        self._follow(after, touched)
        return after

    def _follow(self, after: Snapshot, touched: Sequence[PipelineSeen]) -> None:
        """What workers serve ``after`` some pipelines changed: hardly any of them another than before."""
        backbones = {pipeline.backbone for pipeline in touched}
        now = {each.epoch: each for backbone in backbones for each in after.by_backbone.get(backbone, ())}
        concerned: dict[str, list[PipelineSeen]] = {}
        for pipeline in touched:
            for stage in pipeline.stages:
                concerned.setdefault(stage.worker, []).append(pipeline)
        mine = {name: _following(self.by_worker.get(name, ()), found, now) for name, found in concerned.items()}
        after.__dict__["by_worker"] = {**self.by_worker, **mine}
        after.__dict__["served"] = {**self.served, **{name: _backbones(found) for name, found in mine.items()}}

    def _hand_on(self, after: Snapshot, *names: str) -> None:
        """What is worked out already."""
        after.__dict__.update({name: self.__dict__[name] for name in names if name in self.__dict__})

    @cached_property
    def books(self) -> dict[str, tuple[WorkerSeen, Book]]:
        """By worker, as far as somebody asked: see `ledger`."""
        return {}

    @cached_property
    def held(self) -> dict[tuple[str, str], tuple[HoldingSeen, tuple[PipelineSeen, ...], int, int]]:
        """By worker and backbone, as far as somebody asked, behind what it follows from: see `ledger`."""
        return {}

    @cached_property
    def formed(self) -> dict[str, tuple[PipelineSeen, ...]]:
        """By backbone, as far as somebody asked: see `routes`."""
        return {}

    @cached_property
    def able(self) -> dict[tuple[str, frozenset[str]], Able]:
        """By backbone and the workers that it may not have, as far as somebody asked: see `place`."""
        return {}

    @cached_property
    def outside(self) -> dict[frozenset[str], frozenset[str]]:
        """By pools, the workers that belong to others, as far as somebody asked: see `want`."""
        return {}

    @cached_property
    def cuts(self) -> dict[Hashable, Answer]:
        """By all that a search for them depends on, so that they are true of what follows, too: see `cut`."""
        return {}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Of workers, by name."""
        return {worker.name: place for place, worker in enumerate(self.workers)}

    @cached_property
    def pooled(self) -> Mapping[str, frozenset[str]]:
        """The workers of each pool, by name."""
        pools = {worker.pool for worker in self.workers} - {""}
        return {pool: frozenset(worker.name for worker in self.workers if worker.pool == pool) for pool in pools}

    @cached_property
    def draining(self) -> frozenset[str]:
        """Workers that are about to end, by name."""
        return frozenset(worker.name for worker in self.workers if worker.draining)

    @cached_property
    def named(self) -> Mapping[str, WorkerSeen]:
        """Workers by name."""
        return {worker.name: worker for worker in self.workers}

    @cached_property
    def by_backbone(self) -> Mapping[str, tuple[PipelineSeen, ...]]:
        """The pipelines of each backbone that has some: those that take requests first, and of these the shortest, then
        the newest."""
        found: dict[str, list[PipelineSeen]] = {}
        for pipeline in self.pipelines:
            found.setdefault(pipeline.backbone, []).append(pipeline)
        return {backbone: _preferred(pipelines) for backbone, pipelines in found.items()}

    @cached_property
    def by_worker(self) -> Mapping[str, tuple[PipelineSeen, ...]]:
        """The pipelines that each worker takes part in, where there are some."""
        found: dict[str, dict[Epoch, PipelineSeen]] = {}
        for pipeline in self.pipelines:
            for stage in pipeline.stages:
                found.setdefault(stage.worker, {})[pipeline.epoch] = pipeline
        return {worker: tuple(pipelines.values()) for worker, pipelines in found.items()}

    @cached_property
    def served(self) -> Mapping[str, frozenset[str]]:
        """The backbones of which each worker has pipelines, where it has some."""
        return {worker: _backbones(pipelines) for worker, pipelines in self.by_worker.items()}

    @cached_property
    def holders(self) -> Mapping[str, tuple[WorkerSeen, ...]]:
        """The workers that hold something of each backbone that is held, or were told to."""
        found: dict[str, list[WorkerSeen]] = {}
        for worker in self.workers:
            for backbone in worker.holdings:
                found.setdefault(backbone, []).append(worker)
        return {backbone: tuple(workers) for backbone, workers in found.items()}

    def ready(self, pool: str) -> tuple[WorkerSeen, ...]:
        """The workers that serve functions of ``pool`` and are ready."""
        if pool not in self._ready:
            self._ready[pool] = tuple(worker for worker in self.workers if worker.ready and worker.serves(pool))
        return self._ready[pool]

    @cached_property
    def _ready(self) -> dict[str, tuple[WorkerSeen, ...]]:
        return {}


def _preferred(pipelines: Sequence[PipelineSeen]) -> tuple[PipelineSeen, ...]:
    return tuple(sorted(pipelines, key=_preference) if len(pipelines) > 1 else pipelines)


def _preference(pipeline: PipelineSeen) -> tuple[bool, int, int, int]:
    epoch = pipeline.epoch
    return pipeline.phase is not PipelinePhase.FORMED, len(pipeline.stages), -epoch.term, -epoch.counter


def _backbones(pipelines: Iterable[PipelineSeen]) -> frozenset[str]:
    return frozenset(pipeline.backbone for pipeline in pipelines)


def _following(
    before: Iterable[PipelineSeen], touched: Iterable[PipelineSeen], now: Mapping[Epoch, PipelineSeen]
) -> tuple[PipelineSeen, ...]:
    """The pipelines of a worker once those ``touched`` are as ``now``, or gone. None moves from worker to worker."""
    found = {each.epoch: each for each in before}
    for each in touched:
        if each.epoch in now:
            found[each.epoch] = now[each.epoch]
        else:
            found.pop(each.epoch, None)
    return tuple(found.values())
