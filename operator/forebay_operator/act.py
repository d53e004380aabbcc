"""Carries steps out: each becomes commands on the streams of the workers it concerns, and a line in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from forebay_api.model import Model
from forebay_operator import wire
from forebay_operator.credentials import Credentials, FromEnvironment, Refused, Token
from forebay_operator.decide.seen import Snapshot
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prepare, Step
from forebay_operator.fleet import Attached, Fleet
from forebay_operator.inspections import (
    DOUBT,
    NO_TOKEN,
    REMOTE_DOUBT,
    REMOTE_RETRY,
    RETRY,
    Failure,
    Inspections,
)
from forebay_operator.sent import Sent
from forebay_operator.snapshot import Epochs
from forebay_operator.subject import Subject
from forebay_wire.v1 import fleet_pb2, model_pb2

log = structlog.get_logger(__name__)

COMMANDS = Counter("forebay_commands_total", "Commands queued for workers.", ["command"])


ABOUT_MODELS = ("prepare", "hold", "form")
"""Commands that name a model."""


@dataclass(frozen=True, slots=True)
class Actor:
    fleet: Fleet
    inspections: Inspections
    sent: Sent
    epochs: Epochs
    credentials: Credentials = field(default_factory=FromEnvironment)

    def carry_out(self, step: Step, seen: Snapshot, now: float) -> bool:
        """Send ``step``, decided on ``seen``. False when there was nothing to do or nobody to tell."""
        match step:
            case Inspect():
                # A step knows what decisions need; of those that it concerns, credentials and revisions may differ.
                told = [self._inspect(subject, step.worker, now) for subject in _asked(step, seen)]
                return any(told)
            case Prepare():
                return not self.sent.prepares(step.worker, step.backbone) and self._tell(step, seen, now)
            case Form():
                self.epochs.take(step.epoch)
        return self._tell(step, seen, now)

    def ask_again(self, seen: Snapshot, now: float) -> None:
        """Inspect once more what failed a while ago or with credentials that are others by now, or may have changed
        since; and prepare what could not be built. Asked is one of the function's pool."""
        due = set(self.inspections.due(_doubted(seen), now))
        pools = {function.function.spec.pool for function in seen.functions}
        ready = [worker for worker in seen.workers if worker.ready]
        serving = {pool: [worker for worker in ready if worker.serves(pool)] for pool in pools}
        for function in seen.functions:
            able = serving[function.function.spec.pool]
            subject = Subject.of(function.function)
            if able and (subject in due or self._corrected(subject)) and (reader := function.reader(able)):
                self._inspect(subject, reader, now)
            if function.failure and function.backbone:
                for worker in able:
                    if function.backbone not in worker.prepared:
                        self.carry_out(Prepare(worker.name, function.backbone, probe=False), seen, now)

    def _corrected(self, subject: Subject) -> bool:
        """Its failure may be over: other credentials are there."""
        if subject.secret is None or not isinstance(self.inspections.found(subject), Failure):
            return False
        return self.inspections.failed_with_others(subject, self.credentials.find(subject.secret, doubted=True))

    def _inspect(self, subject: Subject, worker: str, now: float) -> bool:
        attached = self.fleet.workers.get(worker)
        if attached is None:
            return False
        token = self._token(subject)
        if isinstance(token, Refused):
            self.inspections.refuse(subject, token, now)
            return False
        if token is None:
            return False  # a pass is made when it is there
        question = self.inspections.ask(subject, worker, attached.incarnation, now, token)
        if question is None:
            return False
        _log(Inspect(worker, subject.uri, subject.dtype), worker=worker, uri=subject.uri)
        return self.fleet.tell(worker, fleet_pb2.Command(inspect=question))

    def _token(self, subject: Subject) -> Token | Refused | None:
        return self.credentials.find(subject.secret) if subject.secret else NO_TOKEN

    def _complete(self, ref: model_pb2.ModelRef) -> bool:
        """Add what fetching takes. False while credentials are still being fetched. Without those that cannot be had
        it may go all the same: what the node's cache holds needs none."""
        subjects = self.inspections.subjects(ref.backbone, ref.uri)
        tokens = [(subject, self._token(subject)) for subject in subjects]
        for subject, token in tokens:
            if isinstance(token, Token):
                ref.digest, ref.credentials = subject.digest, token.value
                return True
        return not any(token is None for _, token in tokens)

    def _tell(self, step: Step, seen: Snapshot, now: float) -> bool:
        concerned = [self.fleet.workers[name] for name in _workers(step, seen) if name in self.fleet.workers]
        command = _command(step, seen, concerned)
        if command is None or not concerned:
            return False
        kind = command.WhichOneof("command")
        if kind in ABOUT_MODELS and not self._complete(getattr(command, kind).model):
            return False
        told = {worker.name: worker.incarnation for worker in concerned if self._send(worker, command)}
        self.sent.note(step, told, now)
        _log(step, **_described(step, concerned))
        return True

    def _send(self, worker: Attached, command: fleet_pb2.Command) -> bool:
        copy = fleet_pb2.Command()
        copy.CopyFrom(command)
        return self.fleet.tell(worker.name, copy)


def _asked(step: Inspect, seen: Snapshot) -> dict[Subject, None]:
    """Each once. Of all functions few are looked at closely: there are as many steps as models."""
    unknown = (known.function for known in seen.functions if not known.backbone and not known.failure)
    concerned = (function for function in unknown if function.spec.model.uri == step.uri)
    return {Subject.of(function): None for function in concerned if function.spec.model.dtype == step.dtype}


def _doubted(seen: Snapshot) -> dict[Subject, float]:
    """Models that may have changed, with the age in seconds at which what is known of them is too old: soon where
    loading went wrong, now and then where nobody holds any of it. One in use may be being copied over: it is left."""
    found: dict[Subject, float] = {}
    for function in seen.functions:
        subject = Subject.of(function.function)
        holdings = [
            worker.holdings[function.backbone] for worker in seen.workers if function.backbone in worker.holdings
        ]
        if any(held.error for held in holdings):
            found[subject] = REMOTE_DOUBT if subject.remote else DOUBT
        elif not holdings:
            found[subject] = REMOTE_RETRY if subject.remote and not function.failure else RETRY
    return found


def _workers(step: Step, seen: Snapshot) -> list[str]:
    match step:
        case Form():
            return [stage.worker for stage in step.stages]
        case Drain() | Dissolve():
            stages = [pipeline.stages for pipeline in seen.pipelines if pipeline.epoch == step.epoch]
            return [stage.worker for found in stages for stage in found]
        case _:
            return [step.worker]


def _command(step: Step, seen: Snapshot, concerned: list[Attached]) -> fleet_pb2.Command | None:
    """What the wire calls ``step``; None when it needs a model or a worker that is not there any more."""
    match step:
        case Drain():
            return fleet_pb2.Command(drain=fleet_pb2.Drain(epoch=wire.epoch_message(step.epoch)))
        case Dissolve():
            return fleet_pb2.Command(dissolve=fleet_pb2.Dissolve(epoch=wire.epoch_message(step.epoch)))
        case Drop():
            return fleet_pb2.Command(drop=fleet_pb2.Drop(backbone=step.backbone, units=step.units))
        case Inspect():
            raise TypeError("an inspection is asked as a question, not told as a step")
    backbone = seen.backbones.get(step.backbone)
    if backbone is None:
        return None
    return _command_about(step, backbone.model, concerned)


def _command_about(step: Prepare | Hold | Form, model: Model, concerned: list[Attached]) -> fleet_pb2.Command | None:
    ref = wire.model_ref(model)
    match step:
        case Prepare():
            return fleet_pb2.Command(prepare=fleet_pb2.Prepare(model=ref, probe=step.probe))
        case Hold():
            return fleet_pb2.Command(hold=fleet_pb2.Hold(model=ref, order=step.order, urgent=step.urgent))
        case Form():
            if len(concerned) < len(step.stages):
                return None
            return fleet_pb2.Command(form=_form(step, ref, concerned))


def _form(step: Form, ref: model_pb2.ModelRef, concerned: list[Attached]) -> fleet_pb2.Form:
    stages = [
        model_pb2.Stage(
            worker=stage.worker,
            first=stage.first,
            last=stage.last,
            hop_unix=worker.report.addresses.hop_unix,
            hop_tcp=worker.report.addresses.hop_tcp,
        )
        for stage, worker in zip(step.stages, concerned, strict=True)
    ]
    return fleet_pb2.Form(
        epoch=wire.epoch_message(step.epoch),
        model=ref,
        stages=stages,
        kv_blocks=step.kv_blocks,
        block_tokens=step.block_tokens,
        steps_in_flight=step.steps_in_flight,
        max_model_len=step.max_model_len,
    )


def _described(step: Step, concerned: list[Attached]) -> dict[str, object]:
    found: dict[str, object] = {"worker": ",".join(worker.name for worker in concerned)}
    match step:
        case Form():
            cut = [f"{stage.worker}:{stage.first}-{stage.last}" for stage in step.stages]
            found |= {"epoch": str(step.epoch), "backbone": step.backbone, "stages": cut}
        case Drain() | Dissolve():
            found["epoch"] = str(step.epoch)
        case Hold():
            found |= {"backbone": step.backbone, "order": list(step.order), "urgent": step.urgent}
        case Drop():
            found |= {"backbone": step.backbone, "units": list(step.units)}
        case Prepare():
            found |= {"backbone": step.backbone, "probe": step.probe}
    return found


def _log(step: Step, **found: object) -> None:
    command = type(step).__name__
    COMMANDS.labels(command).inc()
    log.info("told", command=command, **found)
