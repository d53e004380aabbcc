"""What workers found in the checkpoints that functions name: one question at a time for each, every answer kept."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from forebay_api.conditions import Reason
from forebay_api.model import Model
from forebay_operator import wire
from forebay_operator.casualties import MOST, Casualties
from forebay_operator.credentials import Refused, Token
from forebay_operator.subject import Subject
from forebay_wire.v1 import fleet_pb2, model_pb2

log = structlog.get_logger(__name__)

PATIENCE = 15.0
"""Seconds for an answer, after which another worker may be asked."""

AT_ONCE = 16
"""Questions under way at one worker: it answers one after another, and its queue of commands is not endless."""

RETRY = 30.0
"""Seconds after which a model that nobody holds is looked at again by itself: files appear and change."""

DOUBT = 2.0
"""Seconds after which it is, where loading it went wrong."""

REMOTE_RETRY, REMOTE_DOUBT = 600.0, 10.0
"""The same of a model on the net, where looking costs others something."""

DEADLY_RETRY = 300.0
"""The same of a model that ended the workers that looked at it."""

FIRST_REST, LONGEST_REST = 2.0, 60.0
"""Seconds until a source that could not be reached is asked again, doubling."""

PASSES = Reason.SOURCE_UNAVAILABLE.value
"""A reason that is no fault of the function's: what was known stays, and nothing is terminal."""

INSPECTIONS = Counter("forebay_inspections_total", "Answers to inspections, by reason (empty: fine).", ["reason"])

NO_TOKEN = Token()
NOBODY: Mapping[str, float] = {}


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
    token: Token


@dataclass(frozen=True, slots=True)
class _Rest:
    """A source that could not be reached. ``until``: unix seconds."""

    failure: Failure
    seconds: float

    @property
    def until(self) -> float:
        return self.failure.at + self.seconds


class Inspections:
    def __init__(self) -> None:
        self._rests: dict[Subject, _Rest] = {}
        self._resting: set[Subject] = set()
        self._unseen = False
        self._vain: dict[Subject, Mapping[str, float]] = {}
        self._casualties = Casualties()
        self._questions: dict[Subject, _Question] = {}
        self._answers: dict[Subject, Model | Failure] = {}
        self._of_uri: dict[str, dict[Subject, None]] = {}
        self._tried: dict[Subject, Token | Refused] = {}
        self._heard: dict[Subject, float] = {}
        self._condemned: dict[Subject, tuple[str, str]] = {}
        self._fresh: list[fleet_pb2.Inspection] = []

    def found(self, subject: Subject) -> Model | Failure | None:
        return self._answers.get(subject)

    def models(self) -> list[Model]:
        return [answer for answer in self._answers.values() if isinstance(answer, Model)]

    def under_way(self, subject: Subject) -> bool:
        """Asked, or to be asked again after a rest."""
        return subject in self._questions or subject in self._resting

    def trouble(self, subject: Subject) -> Failure | None:
        """Why there is no answer, or no newer one, though it was asked for: passes by itself."""
        rest = self._rests.get(subject)
        return rest.failure if rest else None

    def vain(self, subject: Subject) -> Mapping[str, float]:
        """Workers that were asked and could not say what it is, and when last (unix seconds)."""
        return self._vain.get(subject, NOBODY)

    def subjects(self, backbone: str, uri: str) -> list[Subject]:
        """Those that turned out to be ``backbone``, which other sources may have too."""
        return [
            subject
            for subject in self._of_uri.get(uri, ())
            if isinstance(answer := self._answers.get(subject), Model) and answer.backbone == backbone
        ]

    def ask(
        self, subject: Subject, worker: str, incarnation: str, now: float, token: Token = NO_TOKEN
    ) -> fleet_pb2.Inspect | None:
        """The question to send to ``worker``; None when one is under way, or others that it must wait for."""
        others = [other for other, question in self._questions.items() if question.worker == worker]
        crowded = len(others) >= AT_ONCE or not self._casualties.may_join(subject, others)
        if crowded or self.under_way(subject):
            return None
        question = _Question(uuid.uuid4().hex, worker, incarnation, now, token)
        self._questions[subject] = question
        return fleet_pb2.Inspect(
            id=question.id,
            uri=subject.uri,
            dtype=subject.dtype,
            revision=subject.revision,
            digest=subject.digest,
            credentials=token.value,
        )

    def refuse(self, subject: Subject, refused: Refused, now: float) -> None:
        """Nobody need be asked: its credentials cannot be had."""
        before = _gist(self._answers.get(subject))
        self._heard[subject] = now
        self._tried[subject] = refused
        self._answer(subject, Failure(Reason.UNAUTHORIZED.value, refused.message, now))
        self._unseen = True
        if before != Reason.UNAUTHORIZED.value:
            log.info("inspected", uri=subject.uri, backbone="", reason=Reason.UNAUTHORIZED.value)

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
                question = self._questions.pop(subject)
                self._tried[subject] = question.token
                self._file(subject, answer, now)
                self._note(subject, question.worker, now, vain=bool(answer.reason))
        self._fresh.clear()
        self._unseen = False
        self._resting = {subject for subject, rest in self._rests.items() if rest.until > now}
        self._bury(incarnations, now)
        for subject, question in list(self._questions.items()):
            if question.at + PATIENCE <= now:
                del self._questions[subject]
                self._note(subject, question.worker, now, vain=True)

    def _bury(self, incarnations: Mapping[str, str], now: float) -> None:
        """Questions whose worker is gone, or began anew."""
        lost: dict[str, list[Subject]] = {}
        for subject, question in self._questions.items():
            if incarnations.get(question.worker) != question.incarnation:
                lost.setdefault(question.worker, []).append(subject)
        for worker, subjects in lost.items():
            self._casualties.ended(subjects)
            for subject in subjects:
                del self._questions[subject]
                self._note(subject, worker, now, vain=True)
                if self._casualties.deadly(subject):
                    self._heard[subject] = now
                    self._answer(subject, _deadly(now))
                    log.error("inspected", uri=subject.uri, backbone="", reason=Reason.INVALID_CHECKPOINT.value)

    def due(self, doubted: Mapping[Subject, float], now: float) -> list[Subject]:
        """Those to be asked again, of subjects and the age in seconds at which their answer is too old."""
        return [
            subject
            for subject, age in doubted.items()
            if subject in self._heard
            and self._heard[subject] + (DEADLY_RETRY if self._casualties.deadly(subject) else age) <= now
            and not self.under_way(subject)
        ]

    def failed_with_others(self, subject: Subject, found: Token | Refused | None) -> bool:
        """Whether its failure was with other credentials than those ``found`` now."""
        failed = isinstance(self._answers.get(subject), Failure)
        return failed and found is not None and self._tried.get(subject, found) != found

    def wake_at(self, now: float) -> float | None:
        """When time alone will change something (unix seconds). Not what is due already: it waits for a worker."""
        times = [question.at + PATIENCE for question in self._questions.values()]
        times += [at + RETRY for at in self._heard.values()]
        times += [at + REMOTE_RETRY for subject, at in self._heard.items() if subject.remote]
        times += [at + DEADLY_RETRY for subject, at in self._heard.items() if self._casualties.deadly(subject)]
        times += [rest.until for rest in self._rests.values()]
        return now if self._unseen else min((at for at in times if at > now), default=None)

    def forget_failure(self, subject: Subject) -> None:
        """Somebody corrected something: ask anew."""
        if isinstance(self._answers.get(subject), Failure):
            del self._answers[subject]
        self._rests.pop(subject, None)
        self._vain.pop(subject, None)
        self._casualties.acquit(subject)
        self._resting.discard(subject)

    def keep(self, wanted: Collection[Subject]) -> None:
        """Forget all others."""
        kept = (self._answers, self._tried, self._questions, self._heard, self._condemned, self._rests, self._vain)
        for memory in (*kept, self._casualties.of):
            for subject in [subject for subject in memory if subject not in wanted]:
                del memory[subject]
        self._of_uri.clear()
        for subject, answer in self._answers.items():
            self._answer(subject, answer)

    def _note(self, subject: Subject, worker: str, now: float, *, vain: bool) -> None:
        """Who could not answer, or ended over it, is passed over while there are others."""
        others = {name: at for name, at in self._vain.get(subject, NOBODY).items() if name != worker}
        if vain or others:
            self._vain[subject] = {**others, worker: now} if vain else others
        else:
            self._vain.pop(subject, None)

    def _file(self, subject: Subject, answer: fleet_pb2.Inspection, now: float) -> None:
        before = _gist(self._answers.get(subject))
        self._heard[subject] = now
        self._casualties.acquit(subject)
        INSPECTIONS.labels(answer.reason).inc()
        if answer.reason == PASSES:
            self._rest(subject, answer.message, now)
            return
        self._rests.pop(subject, None)
        backbone, message = self._condemned.get(subject, ("", ""))
        if answer.reason:
            self._answer(subject, Failure(answer.reason, answer.message, now))
        elif backbone == answer.model.backbone:
            self._answer(subject, _condemnation(message, now))
        else:
            self._answer(subject, _model(answer.model, now))
        if _gist(self._answers[subject]) != before:
            log.info("inspected", uri=subject.uri, backbone=answer.model.backbone, reason=answer.reason)

    def _answer(self, subject: Subject, answer: Model | Failure) -> None:
        self._answers[subject] = answer
        self._of_uri.setdefault(subject.uri, {})[subject] = None

    def _rest(self, subject: Subject, message: str, now: float) -> None:
        before = self._rests.get(subject)
        seconds = min(2 * before.seconds, LONGEST_REST) if before else FIRST_REST
        self._rests[subject] = _Rest(Failure(PASSES, message, now), seconds)
        log.warning("source unavailable", uri=subject.uri, reason=message, again_in=seconds)


def _gist(answer: Model | Failure | None) -> str:
    return answer.backbone if isinstance(answer, Model) else answer.reason if answer else ""


def _condemnation(message: str, now: float) -> Failure:
    return Failure(Reason.MODEL_LOAD_FAILED.value, message, now)


def _model(message: model_pb2.Model, now: float) -> Model | Failure:
    try:
        return wire.model(message)
    except ValueError as error:
        return Failure(Reason.UNSUPPORTED_ARCHITECTURE.value, str(error), now)


def _deadly(now: float) -> Failure:
    message = f"{MOST} workers ended while they looked at the model; spec.model.uri should name one that they can read"
    return Failure(Reason.INVALID_CHECKPOINT.value, message, now)
