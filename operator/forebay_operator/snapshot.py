"""The frozen snapshot of a pass: reports, demand and functions, with what is under way laid over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from forebay_api.conditions import Reason
from forebay_api.function import FunctionKey
from forebay_api.model import Epoch, Model
from forebay_operator import reports
from forebay_operator.decide import links, recover
from forebay_operator.decide.load import Measured, Memory
from forebay_operator.decide.plan import Plan
from forebay_operator.decide.pressure import Turns
from forebay_operator.decide.seen import BackboneSeen, Costs, FunctionSeen, Snapshot
from forebay_operator.demand import Demand
from forebay_operator.estate import Estate
from forebay_operator.fleet import Attached, Fleet
from forebay_operator.functions import Functions, Known
from forebay_operator.inspections import Failure, Inspections
from forebay_operator.rolling import Rolling
from forebay_operator.subject import Subject
from forebay_wire.v1 import fleet_pb2

NOT_A_NUMBER = (
    "NotANumber: two workers computed no numbers with it, or could not compute; its weights seem to be damaged, or its "
    "config.json does not fit them"
)


@dataclass(slots=True)
class Epochs:
    """Counts pipelines within a term: never one twice, also when an earlier operator of the same term was forgotten."""

    term: int = 0
    counter: int = 0

    def following(self, term: int, reported: Iterable[Epoch], used: Iterable[int] = ()) -> Epoch:
        if term != self.term:
            self.term, self.counter = term, 0
        within = [epoch.counter for epoch in reported if epoch.term == term]
        self.counter = max([self.counter, *within, *used])
        return Epoch(term, self.counter + 1)

    def take(self, epoch: Epoch) -> None:
        """``epoch`` names a pipeline from now on."""
        if epoch.term == self.term:
            self.counter = max(self.counter, epoch.counter)


class Measurements(Protocol):
    """What Prometheus says of functions."""

    def seen(self, key: FunctionKey, now: float) -> Measured | None:
        """As of ``now`` in unix seconds; None where nobody asks it about this function."""


@dataclass(slots=True)
class Probed:
    """Compute of each backbone as workers measured it, kept when they are gone."""

    samples: dict[tuple[str, str], fleet_pb2.Prepared] = field(default_factory=dict)

    def learn(self, workers: Iterable[Attached]) -> None:
        for worker in workers:
            for prepared in worker.report.prepared:
                if prepared.layer:
                    self.samples.setdefault((prepared.backbone, worker.report.device.kind), prepared)

    def keep(self, backbones: Iterable[str]) -> None:
        wanted = set(backbones)
        self.samples = {key: prepared for key, prepared in self.samples.items() if key[0] in wanted}

    def costs(self, backbone: str, kind: str) -> Costs:
        """Of one backbone on devices of ``kind``; empty until somebody measured."""
        prepared = self.samples.get((backbone, kind))
        if prepared is None:
            return Costs()
        return Costs(layer=_ascending(prepared.layer), head=_ascending(prepared.head))


def _ascending(samples: Iterable[fleet_pb2.ComputeSample]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((sample.tokens, sample.seconds) for sample in samples))


@dataclass(slots=True)
class Observer:
    """Takes snapshots of what the streams and ``estate`` say, before steps under way are laid over it."""

    functions: Functions
    fleet: Fleet
    demand: Demand
    inspections: Inspections
    estate: Callable[[], Estate] = Estate
    epochs: Epochs = field(default_factory=Epochs)
    probed: Probed = field(default_factory=Probed)
    rolling: Rolling = field(default_factory=Rolling)
    measurements: Measurements | None = None
    _memories: Mapping[FunctionKey, Memory] = field(default_factory=dict)
    _turns: Turns = field(default_factory=Turns)

    def remember(self, plan: Plan) -> None:
        """What a pass leaves to the next one, of functions that it knew."""
        self._memories = {key: scale.memory for key, scale in plan.scales.items()}
        self._turns = plan.turns

    def take(self, term: int, now: float) -> Snapshot:
        attached = list(self.fleet.workers.values())
        estate = self.estate()
        self.inspections.settle({worker.name: worker.incarnation for worker in attached}, now)
        for backbone in recover.condemned(worker.seen for worker in attached):
            self.inspections.condemn(backbone, NOT_A_NUMBER, now)
            self.rolling.forget(backbone)
        self.probed.learn(attached)
        models = {model.backbone: model for model in self.inspections.models()}
        pipelines = reports.pipelines_seen(worker.report for worker in attached)
        unprepared = _unprepared(attached)
        bare = Snapshot(
            functions=tuple(
                self._function(key, known, unprepared, now) for key, known in sorted(self.functions.known.items())
            ),
            backbones={},
            workers=links.known(
                (estate.known(worker.seen) for worker in sorted(attached, key=lambda worker: worker.name)),
                reports.UNKNOWN_RATE,
            ),
            pipelines=tuple(sorted(pipelines.values(), key=lambda pipeline: pipeline.epoch)),
            next_epoch=self.epochs.following(
                term, pipelines, (worker.report.counter for worker in attached if worker.report.term == term)
            ),
            pools=estate.existing,
            turns=self._turns,
        )
        seen = self.rolling.laid_over(bare, models)
        models |= {model.backbone: model for model in self.rolling.models()}
        return replace(seen, backbones=self._backbones(models, seen.functions, attached))

    def _function(
        self, key: FunctionKey, known: Known, unprepared: Mapping[str, tuple[str, str]], now: float
    ) -> FunctionSeen:
        subject = Subject.of(known.function)
        found = self.inspections.found(subject)
        model = found if isinstance(found, Model) else None
        trouble = self.inspections.trouble(subject)
        failure = (found.reason, found.message) if isinstance(found, Failure) else None
        if model is not None:
            failure = _too_long(known, model) or unprepared.get(model.backbone)
        return FunctionSeen(
            function=known.function,
            backbone=model.backbone if model else "",
            demand=self.demand.seen(key, now),
            failure=failure,
            first_seen=known.first_seen,
            inspecting=self.inspections.under_way(subject),
            trouble=(trouble.reason, trouble.message) if trouble else None,
            vain=self.inspections.vain(subject),
            measured=self.measurements.seen(key, now) if self.measurements else None,
            memory=self._memories.get(key, Memory()),
        )

    def _backbones(
        self, models: Mapping[str, Model], functions: tuple[FunctionSeen, ...], attached: list[Attached]
    ) -> dict[str, BackboneSeen]:
        kinds = Counter(worker.report.device.kind for worker in attached)
        kind = max(kinds, key=lambda kind: kinds[kind], default="")
        self.probed.keep(models)
        used = _last_used(functions)
        return {
            backbone: BackboneSeen(model, self.probed.costs(backbone, kind), used.get(backbone, 0.0))
            for backbone, model in models.items()
        }


def _last_used(functions: Iterable[FunctionSeen]) -> Mapping[str, float]:
    """By backbone, the end of the last request."""
    found: dict[str, float] = {}
    for seen in functions:
        for backbone in (seen.backbone, seen.previous):
            found[backbone] = max(found.get(backbone, 0.0), seen.demand.last_ended)
    return found


def _too_long(known: Known, model: Model) -> tuple[str, str] | None:
    wanted = known.function.spec.model.max_model_len
    if wanted is None or wanted <= model.max_model_len:
        return None
    return (
        Reason.INVALID_SPEC.value,
        f"spec.model.maxModelLen is {wanted}, but the model's own context is {model.max_model_len}: "
        f"at most {model.max_model_len}",
    )


def _unprepared(workers: Iterable[Attached]) -> Mapping[str, tuple[str, str]]:
    """By backbone, why it cannot be built. Terminal only when every worker that tried to build it failed."""
    errors: dict[str, tuple[str, str]] = {}
    built: set[str] = set()
    for worker in workers:
        for prepared in worker.report.prepared:
            if prepared.error:
                errors.setdefault(prepared.backbone, (Reason.MODEL_LOAD_FAILED.value, prepared.error))
            else:
                built.add(prepared.backbone)
    return {backbone: error for backbone, error in errors.items() if backbone not in built}
