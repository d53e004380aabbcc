"""A function's status as the API server stores it: pure, from what a pass said to the body of a write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forebay_api import names
from forebay_api.conditions import Condition, ConditionType, Reason, State, Status
from forebay_api.function import FunctionKey
from forebay_api.model import Model, Stage
from forebay_operator.cluster import past
from forebay_operator.cluster.past import LONGEST_MESSAGE, REMEMBERED, stamp
from forebay_operator.cluster.seen import Body
from forebay_operator.cluster.source import Invalid
from forebay_operator.cluster.template import POOL_LABEL
from forebay_operator.control import Outcome
from forebay_operator.decide.seen import BackboneSeen, FunctionSeen, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decisions import Decision

MOST_PLACEMENTS = 64
"""As many as the schema takes."""

SHOWN = (PipelinePhase.FORMED, PipelinePhase.DRAINING)

OURS = (
    "observedGeneration",
    "state",
    "url",
    "address",
    "replicas",
    "readyReplicas",
    "desiredReplicas",
    "scaling",
    "coldStart",
    "lastFailure",
    "workers",
    "selector",
    "model",
    "placements",
    "conditions",
)
"""The fields that we write; what others write beside them is theirs."""

WEIGHTY = tuple(field for field in OURS if field not in ("scaling", "conditions", *REMEMBERED))
"""Those that are written soon after any change."""

QUIET = 5.0
"""Seconds from write to write while only the words of messages change: some count."""

BUSY = 0.25
"""Seconds from write to write of one object otherwise."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one object's status should say. ``fields`` is all but the conditions, whose times depend on what is
    stored, and the ``decision``, whose numbers change all the time."""

    uid: str
    generation: int
    fields: Mapping[str, Any]
    conditions: tuple[Condition, ...]
    decision: Decision | None = None


def status(function: FunctionSeen, outcome: Outcome, places: Places) -> Wanted:
    """Of a function that the outcome has a status of."""
    key = function.function.key
    found = outcome.statuses[key]
    body: dict[str, Any] = {
        "observedGeneration": function.function.generation,
        "state": found.state.value,
        "url": found.url,
        "address": {"url": found.url},
        "replicas": max(found.ready, found.desired),
        "readyReplicas": found.ready,
        "desiredReplicas": found.desired,
        "workers": places.workers.get(function.serving, 0),
        "selector": f"{POOL_LABEL}={function.function.spec.pool}",
        "placements": places.stages.get(function.serving, []),
    }
    if (backbone := outcome.seen.backbones.get(function.serving)) is not None:
        body["model"] = _model(backbone)
    if (ended := outcome.cold_starts.get(key)) is not None:
        body["coldStart"] = past.cold_start(ended)
    decision = outcome.scaling.get(key)
    return Wanted(function.function.uid, function.function.generation, body, found.conditions, decision)


def invalid(found: Invalid) -> Wanted:
    """Of an object that is no function: every known condition, and which field is wrong."""

    def verdict(kind: ConditionType) -> Condition:
        wrong = {ConditionType.READY: Status.FALSE, ConditionType.STALLED: Status.TRUE}
        calm = {ConditionType.RECONCILING: Status.FALSE}
        of = (wrong | calm).get(kind, Status.UNKNOWN)
        return Condition(kind, of, Reason.INVALID_SPEC, found.message, found.generation)

    body = {"observedGeneration": found.generation, "state": State.FAILED.value, "replicas": 0, "readyReplicas": 0}
    return Wanted(found.uid, found.generation, body, tuple(verdict(kind) for kind in ConditionType))


@dataclass(frozen=True, slots=True)
class Places:
    """By backbone, ``workers`` in its pipelines and the ``stages`` to show, the newest pipeline's last."""

    workers: Mapping[str, int]
    stages: Mapping[str, list[dict[str, Any]]]

    @classmethod
    def of(cls, seen: Snapshot) -> Places:
        """Once a pass, for all functions. Of very many stages the first ones are shown."""
        named = {worker.name: worker for worker in seen.workers}
        workers: dict[str, set[str]] = {}
        stages: dict[str, list[dict[str, Any]]] = {}
        for pipeline in sorted(seen.pipelines, key=lambda pipeline: pipeline.epoch):
            if pipeline.phase is not PipelinePhase.BROKEN:
                workers.setdefault(pipeline.backbone, set()).update(stage.worker for stage in pipeline.stages)
            if pipeline.phase in SHOWN:
                stages.setdefault(pipeline.backbone, []).extend(_stages(pipeline, named))
        return cls(
            {backbone: len(those) for backbone, those in workers.items()},
            {backbone: shown[:MOST_PLACEMENTS] for backbone, shown in stages.items()},
        )


def _stages(pipeline: PipelineSeen, named: Mapping[str, WorkerSeen]) -> Iterator[dict[str, Any]]:
    for place, stage in enumerate(pipeline.stages):
        yield {
            "worker": stage.worker,
            "stage": place,
            "epoch": str(pipeline.epoch),
            "node": named[stage.worker].node if stage.worker in named else "",
            "firstUnit": stage.first,
            "lastUnit": stage.last,
            "state": _doing(pipeline, stage, named.get(stage.worker)),
        }


def _doing(pipeline: PipelineSeen, stage: Stage, worker: WorkerSeen | None) -> str:
    if pipeline.phase is PipelinePhase.DRAINING:
        return "Draining"
    held = worker.holdings.get(pipeline.backbone) if worker else None
    return "Serving" if held is not None and held.resident.issuperset(stage.units) else "Loading"


def _model(backbone: BackboneSeen) -> dict[str, Any]:
    model: Model = backbone.model
    found = {
        "backbone": model.backbone,
        "architecture": model.architecture,
        "sizeBytes": model.link_bytes,
        "layers": model.layers,
        "resolvedRevision": model.revision,
        "digest": model.digest,
    }
    return {key: value for key, value in found.items() if value}


def counted_from(before: int, wanted: Wanted) -> Wanted:
    """With the cold starts that operators ``before`` counted."""
    if not before or "coldStart" not in wanted.fields:
        return wanted
    ours = wanted.fields["coldStart"]
    return replace(wanted, fields={**wanted.fields, "coldStart": {**ours, "count": before + ours["count"]}})


def distance(wanted: Wanted, stored: Mapping[str, Any]) -> float | None:
    """Seconds that a write must keep from the one before; None when nothing differs that a person would care about:
    times of transitions follow from the rest."""
    if any(wanted.fields.get(field) != stored.get(field) for field in WEIGHTY):
        return BUSY
    if "coldStart" in wanted.fields and wanted.fields["coldStart"] != stored.get("coldStart"):
        return BUSY
    ours = {condition.type.value: _condition(condition, "") for condition in wanted.conditions}
    theirs = {str(entry.get("type")): entry for entry in _conditions(stored)}
    if _gists(ours, GIST) != _gists(theirs, GIST):
        return BUSY
    # The load alone may make one reason of another, and again.
    if past.gist(wanted.decision) != past.stored_gist(stored):
        return QUIET
    return QUIET if _gists(ours, ("message",)) != _gists(theirs, ("message",)) else None


def same(one: Wanted, other: Wanted) -> bool:
    """But for times, and for what is only written along with something else."""
    return (
        (one.uid, one.generation, one.fields) == (other.uid, other.generation, other.fields)
        and past.gist(one.decision) == past.gist(other.decision)
        and [_words(entry) for entry in one.conditions] == [_words(entry) for entry in other.conditions]
    )


def _words(condition: Condition) -> tuple[str, ...]:
    return condition.type, condition.status, condition.reason, condition.message


def premature(wanted: Wanted, stored: Mapping[str, Any]) -> bool:
    """Whether it says that something is not known which somebody knew already: workers and gateways may only not have
    come back yet."""
    if stored.get("observedGeneration") != wanted.generation:
        return False
    if past.blind(wanted.decision) and not past.blindly(stored):
        return True
    known = {(str(entry.get("type")), str(entry.get("status"))) for entry in _conditions(stored)}
    return any(
        _ignorant(condition) and (condition.type.value, condition.status.value) not in known
        for condition in wanted.conditions
    )


def _ignorant(condition: Condition) -> bool:
    """Whatever the trouble is that makes the autoscaler blind: a new operator has asked nobody yet, and of the workers
    it may have heard a few."""
    return condition.reason == Reason.INSUFFICIENT_GPUS or (condition.type, condition.status) in (
        (ConditionType.READY, Status.UNKNOWN),
        (ConditionType.SCALING_ACTIVE, Status.FALSE),
    )


def write(key: FunctionKey, wanted: Wanted, stored: Mapping[str, Any], now: float) -> dict[str, Any]:
    """To be applied to ``status``. A condition that did not flip keeps its stored time; one that did gets ``now``. What
    is remembered there stays until there is something newer.

    With the uid: a function that was deleted and made anew meanwhile refuses it."""
    since = {(entry.get("type"), entry.get("status")): entry.get("lastTransitionTime") for entry in _conditions(stored)}
    conditions = [
        _condition(condition, since.get((condition.type.value, condition.status.value)) or stamp(now))
        for condition in wanted.conditions
    ]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"namespace": key.namespace, "name": key.name, "uid": wanted.uid},
        "status": {
            **{field: stored[field] for field in REMEMBERED if field in stored},
            **wanted.fields,
            **past.scaling(wanted.decision),
            **past.failure(conditions, _conditions(stored), stored, now),
            "conditions": conditions,
        },
    }


def status_of(body: Body) -> Mapping[str, Any]:
    found = body.get("status")
    return found if isinstance(found, Mapping) else {}


def _conditions(stored: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return stored.get("conditions") or ()


def _condition(condition: Condition, since: str) -> dict[str, Any]:
    return {
        "type": condition.type.value,
        "status": condition.status.value,
        "reason": str(condition.reason),
        "message": condition.message[:LONGEST_MESSAGE],
        "observedGeneration": condition.observed_generation,
        "lastTransitionTime": since,
    }


GIST = ("status", "reason", "observedGeneration")


def _gists(conditions: Mapping[str, Mapping[str, Any]], fields: Sequence[str]) -> Mapping[str, tuple[object, ...]]:
    return {kind: tuple(entry.get(field) for field in fields) for kind, entry in conditions.items()}
