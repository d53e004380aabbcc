"""What workers found in the checkpoints that functions name: one question at a time for each, every answer kept."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from prometheus_client import Counter

from forebay_api.conditions import Reason
from forebay_api.function import Function
from forebay_api.model import Model
from forebay_operator import wire
from forebay_wire.v1 import fleet_pb2

log = structlog.get_logger(__name__)

PATIENCE = 15.0
"""Seconds for an answer, after which another worker may be asked."""

RETRY = 30.0
"""Seconds after which a model that nobody holds is looked at again by itself: files appear and change."""

DOUBT = 2.0
"""Seconds after which it is, where loading it went wrong."""

INSPECTIONS = Counter("forebay_inspections_total", "Answers to inspections, by reason (empty: fine).", ["reason"])


class Subject(NamedTuple):
    uri: str
    dtype: str

    @classmethod
    def of(cls, function: Function) -> Subject:
        return cls(function.spec.model.uri, function.spec.model.dtype)


@dataclass(frozen=True, slots=True)
class Failure:
    """``at``: unix seconds of the answer."""

    reason: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class _Question:
    id: str
    worker: str
    incarnation: str
    at: float


class Inspections:
    def __init__(self) -> None:
        self._questions: dict[Subject, _Question] = {}
        self._answers: dict[Subject, Model | Failure] = {}
        self._heard: dict[Subject, float] = {}
        self._condemned: dict[Subject, tuple[str, str]] = {}
        self._fresh: list[fleet_pb2.Inspection] = []

    def found(self, subject: Subject) -> Model | Failure | None:
        return self._answers.get(subject)

    def models(self) -> list[Model]:
        return [answer for answer in self._answers.values() if isinstance(answer, Model)]

    def under_way(self, subject: Subject) -> bool:
        return subject in self._questions

    def ask(self, subject: Subject, worker: str, incarnation: str, now: float) -> fleet_pb2.Inspect | None:
        """The question to send to ``worker``; None when one is under way."""
        if subject in self._questions:
            return None
        question = _Question(uuid.uuid4().hex, worker, incarnation, now)
        self._questions[subject] = question
        return fleet_pb2.Inspect(id=question.id, uri=subject.uri, dtype=subject.dtype)

    def hear(self, answer: fleet_pb2.Inspection) -> None:
        """Take an answer in; it counts from the next ``settle`` on."""
        self._fresh.append(answer)

    def condemn(self, backbone: str, message: str, now: float) -> None:
        """It turned out that ``backbone`` cannot be used. Looking again helps only once its files are others."""
        for subject, answer in self._answers.items():
            if isinstance(answer, Model) and answer.backbone == backbone:
                log.error("condemned", uri=subject.uri, backbone=backbone, reason=message)
                self._condemned[subject] = backbone, message
                self._answers[subject] = _condemnation(message, now)

    def settle(self, incarnations: Mapping[str, str], now: float) -> None:
        """File answers, and give up questions whose worker is gone or silent. An answer to no question of ours (an
        earlier operator asked) is dropped."""
        subjects = {question.id: subject for subject, question in self._questions.items()}
        for answer in self._fresh:
            if (subject := subjects.pop(answer.id, None)) is not None:
                del self._questions[subject]
                self._file(subject, answer, now)
        self._fresh.clear()
        for subject, question in list(self._questions.items()):
            lost = incarnations.get(question.worker) != question.incarnation
            if lost or question.at + PATIENCE <= now:
                del self._questions[subject]

    def due(self, doubted: Mapping[Subject, float], now: float) -> list[Subject]:
        """Those to be asked again, of subjects and the age in seconds at which their answer is too old."""
        return [
            subject
            for subject, age in doubted.items()
            if subject in self._heard and self._heard[subject] + age <= now and subject not in self._questions
        ]

    def wake_at(self, now: float) -> float | None:
        """When time alone will change something (unix seconds). Not what is due already: it waits for a worker."""
        times = [question.at + PATIENCE for question in self._questions.values()]
        times += [at + RETRY for at in self._heard.values()]
        return min((at for at in times if at > now), default=None)

    def forget_failure(self, subject: Subject) -> None:
        """Somebody corrected something: ask anew."""
        if isinstance(self._answers.get(subject), Failure):
            del self._answers[subject]

    def keep(self, wanted: Collection[Subject]) -> None:
        """Forget all others."""
        for memory in (self._answers, self._questions, self._heard, self._condemned):
            for subject in [subject for subject in memory if subject not in wanted]:
                del memory[subject]

    def _file(self, subject: Subject, answer: fleet_pb2.Inspection, now: float) -> None:
        before = _gist(self._answers.get(subject))
        self._heard[subject] = now
        INSPECTIONS.labels(answer.reason).inc()
        backbone, message = self._condemned.get(subject, ("", ""))
        if answer.reason:
            self._answers[subject] = Failure(answer.reason, answer.message, now)
        elif backbone == answer.model.backbone:
            self._answers[subject] = _condemnation(message, now)
        else:
            self._answers[subject] = wire.model(answer.model)
        if _gist(self._answers[subject]) != before:
            log.info("inspected", uri=subject.uri, backbone=answer.model.backbone, reason=answer.reason)


def _gist(answer: Model | Failure | None) -> str:
    return answer.backbone if isinstance(answer, Model) else answer.reason if answer else ""


def _condemnation(message: str, now: float) -> Failure:
    return Failure(Reason.MODEL_LOAD_FAILED.value, message, now)
