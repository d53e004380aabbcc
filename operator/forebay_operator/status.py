"""What a person reads of a function: conditions, the one-word state, and why."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from forebay_api import conditions
from forebay_api.conditions import Condition, ConditionType, Facts, Reason, State, Status
from forebay_api.function import FunctionKey, ScalingMode
from forebay_api.model import Epoch
from forebay_operator.decide.cut import Refusal
from forebay_operator.decide.plan import Plan
from forebay_operator.decide.seen import FunctionSeen, PipelinePhase, Snapshot

log = structlog.get_logger(__name__)

PORT = re.compile(r":\d+$")

PINNED_TO_ZERO = "PinnedToZero"

UNRESOLVED = frozenset(
    reason.value
    for reason in (
        Reason.ARTIFACT_NOT_FOUND,
        Reason.UNAUTHORIZED,
        Reason.CHECKSUM_MISMATCH,
        Reason.UNSUPPORTED_ARCHITECTURE,
        Reason.INVALID_CHECKPOINT,
    )
)
"""Terminal errors of finding the model; others concern what is to be done with it."""

Verdict = tuple[Status, str, str]
"""Status, reason and message of a condition."""


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """``ready``: replicas that answer; ``desired``: replicas that are wanted. ``refusal``: (reason, message) with which
    gateways turn requests away at once."""

    state: State
    reason: str
    message: str
    ready: int
    desired: int
    url: str
    conditions: tuple[Condition, ...]
    refusal: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Look:
    """One function and what is to be seen of its backbone. ``whole``, ``staged`` and ``draining`` count its pipelines
    of one and of several stages and those that end; ``coming``: ordered, not yet formed; ``error``: why a worker
    stopped loading; ``refusal``: why it cannot be placed. ``pooled``: workers belong to pools; ``orphaned``: its pool
    does not exist."""

    function: FunctionSeen
    workers: int
    memory: int
    desired: int
    refusal: Refusal | None = None
    needs: int = 0
    whole: int = 0
    staged: int = 0
    draining: int = 0
    coming: bool = False
    error: str = ""
    pooled: bool = False
    orphaned: bool = False

    @property
    def formed(self) -> int:
        return self.whole + self.staged

    @property
    def replicas(self) -> int:
        """Each worker that serves alone is one; the workers of longer pipelines are one together. None is ours when the
        function is off: another one keeps them."""
        return 0 if self.off else max(self.whole, min(self.formed, 1))

    @property
    def off(self) -> tuple[str, str] | None:
        """Switched off by its spec, and by which field."""
        spec = self.function.function.spec
        if spec.suspend:
            return Reason.SUSPENDED.value, "spec.suspend is true"
        if spec.replicas == 0 and spec.scaling.mode is not ScalingMode.EXTERNAL:
            return PINNED_TO_ZERO, "spec.replicas is 0"
        return None

    @property
    def nobody(self) -> tuple[Status, Reason, str]:
        """What to say of a function that no worker could serve."""
        pool = self.function.function.spec.pool
        if self.orphaned:
            return Status.FALSE, Reason.POOL_NOT_FOUND, f"there is no WorkerPool {pool} where the operator runs"
        of_pool = f" of pool {pool}" if self.pooled else ""
        return Status.UNKNOWN, Reason.NO_WORKER, f"no worker{of_pool} is attached"

    @property
    def facts(self) -> Facts:
        return Facts(
            failed=self.function.failure is not None,
            suspended=self.off is not None,
            whole=self.whole > 0,
            staged=self.staged > 0,
            loading=self.coming,
            waiting=self.function.demand.waiting > 0,
            draining=self.draining > 0,
        )


def look(function: FunctionSeen, seen: Snapshot, formed: Collection[Epoch], plan: Plan) -> Look:
    """``formed``: epochs that their heads report as taking requests."""
    mine = seen.by_backbone.get(function.serving, ())
    live = [pipeline for pipeline in mine if pipeline.phase is PipelinePhase.FORMED]
    stages = [len(pipeline.stages) for pipeline in live if pipeline.epoch in formed]
    errors = (worker.holdings[function.backbone].error for worker in seen.holders.get(function.backbone, ()))
    model = seen.backbones.get(function.backbone)
    pool = function.function.spec.pool
    ready = seen.ready(pool)
    scale = plan.scales.get(function.function.key)
    return Look(
        function=function,
        workers=len(ready),
        pooled=seen.pools is not None,
        orphaned=seen.pools is not None and pool not in seen.pools,
        memory=sum(worker.memory for worker in ready),
        desired=scale.desired if scale else 0,
        refusal=plan.refusals.get(function.function.key),
        needs=model.model.resident_bytes if model else 0,
        whole=stages.count(1),
        staged=len(stages) - stages.count(1),
        draining=sum(pipeline.phase in (PipelinePhase.DRAINING, PipelinePhase.DRAINED) for pipeline in mine),
        coming=len(live) > len(stages),
        error=next(filter(None, errors), ""),
    )


@dataclass(frozen=True, slots=True)
class Urls:
    """Where functions are called. ``gateway``: what their paths follow. ``domain``, where there is one: each has a host
    below it, in the gateway's scheme and at its port."""

    gateway: str
    domain: str = ""

    def path(self, key: FunctionKey) -> str:
        return f"{self.gateway.rstrip('/')}/{key.namespace}/{key.name}"

    def of(self, key: FunctionKey) -> str:
        if not self.domain:
            return self.path(key)
        scheme, _, rest = self.gateway.partition("://")
        port = PORT.search(rest.partition("/")[0])
        return f"{scheme}://{key.name}.{key.namespace}.{self.domain}{port[0] if port else ''}"


class Statuses:
    """Remembers conditions, so that each keeps the time of its last transition."""

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self._last: dict[FunctionKey, FunctionStatus] = {}

    def take(self, looks: Mapping[FunctionKey, Look], now: float) -> Mapping[FunctionKey, FunctionStatus]:
        """The status of every function, and a line in the log for each that came into another state."""
        statuses = {key: self._status(key, look, now) for key, look in looks.items()}
        for key, status in statuses.items():
            before = self._last.get(key)
            if before is None or (before.state, before.reason) != (status.state, status.reason):
                log.info("function state", function=str(key), state=status.state, reason=status.reason)
        self._last = statuses
        return statuses

    def _status(self, key: FunctionKey, look: Look, now: float) -> FunctionStatus:
        last = self._last.get(key)
        before = {condition.type: condition for condition in last.conditions} if last else {}
        generation = look.function.function.generation
        found = tuple(
            Condition(kind, *verdict(look), generation, now).following(before.get(kind)) for kind, verdict in VERDICTS
        )
        ready = found[0]
        return FunctionStatus(
            state=conditions.state(look.facts),
            reason=ready.reason,
            message=ready.message,
            ready=look.replicas,
            desired=look.desired,
            url=self._urls.of(key),
            conditions=found,
            refusal=look.off or (None if look.function.previous else look.function.failure),
        )


def _ready(look: Look) -> Verdict:
    """True at zero: the next request will be answered."""
    if look.function.failure is not None:
        reason, message = look.function.failure
        return (
            Status.FALSE,
            reason,
            message + ("; the model before it goes on serving" if look.function.previous else ""),
        )
    if look.off is not None:
        return Status.FALSE, *look.off
    if not look.workers:
        return look.nobody
    if not look.function.serving:
        return _resolving(look)
    if (lack := _lack(look)) is not None:
        return Status.FALSE, Reason.INSUFFICIENT_GPUS, lack
    return Status.TRUE, Reason.READY, ""


def _model_resolved(look: Look) -> Verdict:
    failure = look.function.failure
    if failure is not None and failure[0] in UNRESOLVED:
        return Status.FALSE, *failure
    if look.function.backbone:
        return Status.TRUE, Reason.RESOLVED, ""
    if not look.workers:
        return Status.UNKNOWN, Reason.NO_WORKER, look.nobody[2]
    return _resolving(look)


def _resolving(look: Look) -> Verdict:
    if look.function.trouble is not None:
        return Status.UNKNOWN, *look.function.trouble
    return Status.UNKNOWN, Reason.RESOLVING, "a worker looks at the model"


def _resources_available(look: Look) -> Verdict:
    if not look.workers:
        reason = Reason.POOL_NOT_FOUND if look.orphaned else Reason.INSUFFICIENT_GPUS
        return Status.FALSE, reason, look.nobody[2]
    if (lack := _lack(look)) is not None:
        return Status.FALSE, Reason.INSUFFICIENT_GPUS, lack
    if look.desired > look.workers:
        few = f"{look.desired} replicas are wanted, and each takes one worker at least: {look.workers} are ready"
        return Status.FALSE, Reason.INSUFFICIENT_GPUS, few
    return Status.TRUE, Reason.AVAILABLE, ""


def _lack(look: Look) -> str | None:
    if look.needs > look.memory:
        return f"the model takes {look.needs} bytes, the {look.workers} ready workers have {look.memory} together"
    if look.refusal is not None and look.refusal.reason == Reason.INSUFFICIENT_GPUS:
        return look.refusal.message
    return None


def _active(look: Look) -> Verdict:
    if look.formed:
        return Status.TRUE, Reason.SERVING, ""
    if look.coming:
        return Status.UNKNOWN, Reason.ACTIVATING, ""
    if look.function.demand.waiting:
        why = look.refusal.message if look.refusal else f"{look.function.demand.waiting} requests wait"
        return Status.UNKNOWN, Reason.QUEUED, why
    return Status.FALSE, Reason.NO_TRAFFIC, ""


def _loaded(look: Look) -> Verdict:
    if look.error:
        return Status.FALSE, Reason.MODEL_LOAD_FAILED, look.error
    if look.whole:
        return Status.TRUE, Reason.LOADED, ""
    if look.staged or look.coming:
        return Status.FALSE, Reason.LOADING, "spread over several workers" if look.staged else ""
    return Status.FALSE, Reason.NOT_LOADED, ""


def _scaling_active(look: Look) -> Verdict:
    function = look.function
    if function.function.spec.scaling.mode is ScalingMode.EXTERNAL:
        return Status.TRUE, Reason.EXTERNAL, "another autoscaler writes spec.replicas"
    if function.function.spec.replicas is not None:
        return Status.TRUE, Reason.PINNED, "spec.replicas is set"
    if function.demand.blind:
        return Status.FALSE, Reason.METRICS_UNAVAILABLE, "a gateway is missing: nothing is scaled down"
    if function.measured is not None and function.measured.trouble is not None:
        reason, message = function.measured.trouble
        return Status.FALSE, reason, f"{message}: gateways' counters are used, nothing is scaled down"
    return Status.TRUE, Reason.SCALING, ""


def _reconciling(look: Look) -> Verdict:
    if look.function.previous and look.function.failure is None:
        return Status.TRUE, Reason.PENDING, "the model before serves until the new one is loaded"
    if look.function.failure is not None or (look.replicas >= look.desired and not look.coming):
        return Status.FALSE, Reason.READY, ""
    return Status.TRUE, Reason.PENDING, f"{look.replicas} of {look.desired} replicas answer"


def _stalled(look: Look) -> Verdict:
    if look.function.failure is not None:
        return Status.TRUE, *look.function.failure
    return Status.FALSE, Reason.READY, ""


VERDICTS = (
    (ConditionType.READY, _ready),
    (ConditionType.MODEL_RESOLVED, _model_resolved),
    (ConditionType.RESOURCES_AVAILABLE, _resources_available),
    (ConditionType.ACTIVE, _active),
    (ConditionType.LOADED, _loaded),
    (ConditionType.SCALING_ACTIVE, _scaling_active),
    (ConditionType.RECONCILING, _reconciling),
    (ConditionType.STALLED, _stalled),
)
