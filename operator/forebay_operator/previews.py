"""Models that no function names: a worker looks at one of them for `forebay plan`, and the operator does not remember
what it found.

Who asks gets no more than a function without credentials would: what he names obeys the same rules, it is read where a
function's would be, no secret goes along, and no decision knows of it.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog
from prometheus_client import Counter

from forebay_api import names
from forebay_api.conditions import Reason
from forebay_api.function import Function, InvalidFunction
from forebay_operator import wire
from forebay_operator.decide.seen import Snapshot
from forebay_operator.fleet import Fleet
from forebay_operator.subject import Subject
from forebay_wire.v1 import fleet_pb2, preview_pb2, preview_pb2_grpc

log = structlog.get_logger(__name__)

LOOKS = Counter("forebay_previews_total", "Models that no function names and that a worker was asked about.")

PATIENCE = 30.0
"""Seconds for an answer, after which whoever asked is sent away."""

MOST = 3
"""Looks under way, of all workers: one fewer than a single worker makes at once, so that functions need not wait."""

LOST = 300.0
"""Seconds after which a look without an answer is given up: hardly any takes so long, and it is a rest for the other
workers where it was the look that ended one."""


@dataclass(frozen=True, slots=True)
class _Look:
    """``began`` is the loop's time. Whoever asked may be gone: the worker goes on."""

    subject: Subject
    worker: str
    began: float
    answer: asyncio.Future[fleet_pb2.Inspection]


class Previews(preview_pb2_grpc.PreviewServicer):
    """``seen`` gives what the last pass saw; ``patience`` is in seconds."""

    def __init__(self, fleet: Fleet, seen: Callable[[], Snapshot], *, patience: float = PATIENCE) -> None:
        self._fleet = fleet
        self._seen = seen
        self._patience = patience
        self._looks: dict[str, _Look] = {}

    def hear(self, answer: fleet_pb2.Inspection) -> bool:
        """Whether it is the answer to a look."""
        look = self._looks.pop(answer.id, None)
        if look is None:
            return False
        log.info("previewed", uri=look.subject.uri, worker=look.worker, reason=answer.reason)
        look.answer.set_result(answer)
        return True

    async def Look(
        self,
        request: preview_pb2.PreviewRequest,
        context: grpc.aio.ServicerContext[preview_pb2.PreviewRequest, preview_pb2.PreviewAnswer],
    ) -> preview_pb2.PreviewAnswer:
        try:
            function = _function(request)
        except InvalidFunction as invalid:
            return _refusal(Reason.INVALID_SPEC, str(invalid))
        look = self._begin(Subject.of(function), function.spec.pool)
        if isinstance(look, preview_pb2.PreviewAnswer):
            return look
        await asyncio.wait([look.answer], timeout=self._patience)  # which does not cancel it
        if look.answer.done():
            return _answer(look.answer.result())
        return _refusal(
            Reason.RESOLVING, f"worker {look.worker} did not answer in {self._patience:g} s: try again later"
        )

    def _begin(self, subject: Subject, pool: str) -> _Look | preview_pb2.PreviewAnswer:
        """Ask one worker, unless that must not or cannot be."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._looks = {name: look for name, look in self._looks.items() if look.began + LOST > now}
        if before := next((look for look in self._looks.values() if look.subject == subject), None):
            return before  # who asks again after a slow answer must not find it forgotten
        if len(self._looks) >= MOST:
            return _refusal(Reason.QUEUED, f"{MOST} other models are being looked at: try again later")
        seen = self._seen()
        if seen.pools is not None and pool not in seen.pools:
            return _refusal(Reason.POOL_NOT_FOUND, f"there is no WorkerPool {pool}: spec.pool should name one")
        able = [worker.name for worker in seen.ready(pool)]
        asked = Tally(look.worker for look in self._looks.values())
        random.shuffle(able)  # who cannot reach the source is not asked again and again
        name = uuid.uuid4().hex
        question = fleet_pb2.Inspect(id=name, uri=subject.uri, dtype=subject.dtype, revision=subject.revision)
        command = fleet_pb2.Command(inspect=question)
        told = (worker for worker in sorted(able, key=asked.__getitem__) if self._fleet.tell(worker, command))
        if (worker := next(told, None)) is None:
            return _refusal(Reason.NO_WORKER, f"no ready worker of pool {pool} is attached")
        LOOKS.inc()
        log.info("previewing", uri=subject.uri, worker=worker)
        look = self._looks[name] = _Look(subject, worker, now, loop.create_future())
        return look


def _function(request: preview_pb2.PreviewRequest) -> Function:
    """As if somebody had applied it. Raises InvalidFunction."""
    revision = {"revision": request.revision} if request.revision else {}
    return Function.from_body(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "preview"},
            "spec": {"model": {"uri": request.uri, "dtype": request.dtype, **revision}, "pool": request.pool},
        }
    )


def _answer(found: fleet_pb2.Inspection) -> preview_pb2.PreviewAnswer:
    if found.reason:
        return preview_pb2.PreviewAnswer(reason=found.reason, message=found.message)
    try:
        wire.model(found.model)
    except ValueError as error:
        return _refusal(Reason.UNSUPPORTED_ARCHITECTURE, str(error))
    return preview_pb2.PreviewAnswer(model=found.model)


def _refusal(reason: Reason, message: str) -> preview_pb2.PreviewAnswer:
    return preview_pb2.PreviewAnswer(reason=reason.value, message=message)
