"""Attached workers: what each last reported, and the queue of what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

import grpc
import structlog
from prometheus_client import Counter, Gauge

from forebay_operator import reports
from forebay_operator.decide.seen import WorkerSeen
from forebay_operator.term import Term
from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc

log = structlog.get_logger(__name__)

SILENCE = 3.0
"""Seconds without a report after which a worker is gone. It reports every second."""

COMMANDS = 256
"""Commands that may wait for one worker: one that lets more pile up does not read them."""

PROGRESS_SECONDS = 0.1
"""How soon a pass must follow a report that only moved bytes; one that said nothing new may take until the next."""

WORKERS = Gauge("forebay_workers_attached", "Workers with a live stream to this operator.")
LOST = Counter("forebay_workers_lost_total", "Streams of workers that ended, by how.", ["how"])
for _how in ("left", "broken", "silent", "invalid", "failed", "overrun", "replaced"):
    LOST.labels(_how)  # from the start: a rate sees no rise where there was nothing before


@dataclass(eq=False, slots=True)
class Attached:
    """One worker as its stream shows it. ``heard`` is the unix time of its last report."""

    report: fleet_pb2.WorkerReport
    seen: WorkerSeen
    heard: float
    stream: _Stream

    @property
    def name(self) -> str:
        return self.report.name

    @property
    def incarnation(self) -> str:
        return self.report.incarnation


@dataclass(eq=False, slots=True)
class _Stream:
    commands: asyncio.Queue[fleet_pb2.Command] = field(default_factory=lambda: asyncio.Queue(COMMANDS))
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    worker: Attached | None = None

    def end(self, why: str) -> None:
        self.why = self.why or why
        self.ending.set()


class Fleet(fleet_pb2_grpc.FleetServicer):
    """One live stream per worker name; a newer one, of the same process or of another, replaces it.

    ``wake(seconds)`` asks for a pass of the control loop within that time; ``inspected`` takes answers to Inspect;
    ``stranger`` says in words why who sent a first report is not who it says, empty: it is.
    """

    def __init__(
        self,
        term: Term,
        *,
        wake: Callable[[float], None],
        inspected: Callable[[fleet_pb2.Inspection], None],
        clock: Callable[[], float] = time.time,
        silence: float = SILENCE,
        stranger: Callable[[fleet_pb2.WorkerReport], str] = lambda _: "",
    ) -> None:
        self._term = term
        self._wake = wake
        self._inspected = inspected
        self._clock = clock
        self._silence = silence
        self._stranger = stranger
        self._workers: dict[str, Attached] = {}
        self._prepared: WeakValueDictionary[int, frozenset[str]] = WeakValueDictionary()

    @property
    def workers(self) -> Mapping[str, Attached]:
        return self._workers

    def tell(self, worker: str, command: fleet_pb2.Command) -> bool:
        """Queue a command under the present term. False when nobody of that name is attached or it stopped reading."""
        attached = self._workers.get(worker)
        if attached is None:
            return False
        command.term = self._term.number
        try:
            attached.stream.commands.put_nowait(command)
        except asyncio.QueueFull:
            attached.stream.end("overrun")
            return False
        return True

    async def Attach(
        self,
        requests: AsyncIterable[fleet_pb2.WorkerReport],
        context: grpc.aio.ServicerContext[fleet_pb2.WorkerReport, fleet_pb2.Command],
    ) -> None:
        stream = _Stream()
        tasks = [
            asyncio.ensure_future(self._read(requests, stream)),
            asyncio.ensure_future(_write(stream, context)),
            asyncio.ensure_future(stream.ending.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._detach(stream)
            await asyncio.gather(*tasks, return_exceptions=True)
        if stream.why:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"this stream was ended: {stream.why}")

    async def _read(self, requests: AsyncIterable[fleet_pb2.WorkerReport], stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence) as patience:
                async for report in requests:
                    patience.reschedule(loop.time() + self._silence)
                    self._hear(report, stream)
        except TimeoutError:
            stream.end("silent")
        except (TypeError, ValueError) as error:
            log.warning(
                "a worker's report makes no sense", worker=stream.worker and stream.worker.name, error=str(error)
            )
            stream.end("invalid")
        except Exception:  # the border of this task
            log.exception("a worker's stream failed", worker=stream.worker.name if stream.worker else "")
            stream.end("failed")

    def _hear(self, report: fleet_pb2.WorkerReport, stream: _Stream) -> None:
        if not report.name or not report.incarnation:
            raise ValueError("a report needs the worker's name and incarnation")
        if stream.worker is None and (why := self._stranger(report)):
            raise ValueError(why)
        self._term.rise_above(report.term)
        seen = self._sharing(reports.worker_seen(report))
        worker = stream.worker
        if worker is None:
            stream.worker = worker = Attached(report, seen, self._clock(), stream)
            self._attach(worker)
            change = "decisive"
        elif (report.name, report.incarnation) != (worker.name, worker.incarnation):
            raise ValueError(f"a stream belongs to one process: {worker.name} {worker.incarnation}, not {report.name}")
        else:
            change = reports.change(worker.report, report, (worker.seen, seen))
            worker.report, worker.seen, worker.heard = report, seen, self._clock()
        for inspection in report.inspections:
            self._inspected(inspection)
            change = "decisive"
        self._wake({"decisive": 0.0, "progress": PROGRESS_SECONDS}.get(change, 1.0))

    def _sharing(self, seen: WorkerSeen) -> WorkerSeen:
        """All workers that have prepared the same have one set of it: a pass compares hundreds of them."""
        prepared = self._prepared.setdefault(hash(seen.prepared), seen.prepared)
        return replace(seen, prepared=prepared) if prepared == seen.prepared else seen

    def _attach(self, worker: Attached) -> None:
        before = self._workers.get(worker.name)
        if before is not None:
            before.stream.end("replaced")
        self._workers[worker.name] = worker
        WORKERS.set(len(self._workers))
        log.info("worker attached", worker=worker.name, incarnation=worker.incarnation, pid=worker.report.pid)

    def _detach(self, stream: _Stream) -> None:
        worker = stream.worker
        if worker is None:
            return
        how = stream.why or ("left" if worker.seen.draining else "broken")
        LOST.labels(how).inc()
        if self._workers.get(worker.name) is worker:
            del self._workers[worker.name]
            WORKERS.set(len(self._workers))
            log.info("worker gone", worker=worker.name, incarnation=worker.incarnation, how=how)
            self._wake(0.0)


async def _write(stream: _Stream, context: grpc.aio.ServicerContext[fleet_pb2.WorkerReport, fleet_pb2.Command]) -> None:
    while True:
        await context.write(await stream.commands.get())
