"""A worker's life from fork to end: builds its parts, serves, drains.

main thread    asyncio: Attach (up), Engine and Stage server, frames to other nodes, commands
device thread  Executor: the only one that touches the device's tensors
loader thread  bytes from files over the link
hop threads    frames from neighbours on this node, heartbeats to them
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterable

import grpc
import structlog
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from forebay_channel import Guard, Role, add_port
from forebay_process.expiry import Expiry
from forebay_process.logs import log_to
from forebay_wire.v1 import engine_pb2_grpc, fleet_pb2, model_pb2, stage_pb2_grpc
from forebay_worker.attach import Attachment
from forebay_worker.commands import Commands
from forebay_worker.config import LOOPBACK
from forebay_worker.device import Device
from forebay_worker.exposed import expose
from forebay_worker.formation import Fault, FaultReason, Phase
from forebay_worker.holdings import Holdings
from forebay_worker.hop import Hops
from forebay_worker.load.link import Bucket, Link
from forebay_worker.load.stream import Loader
from forebay_worker.metrics import WorkerCollector
from forebay_worker.pipelines import faults_total
from forebay_worker.prepare import Preparations
from forebay_worker.report import Reporter
from forebay_worker.service import EngineService
from forebay_worker.stage import Executor
from forebay_worker.states import WORKER, WorkerEvent, WorkerState
from forebay_worker.team import compute_alone
from forebay_worker.vigil import Vigil
from forebay_worker.zygote import Seat

log = structlog.get_logger(__name__)

CALLERS = {
    "forebay_wire.v1.Engine": (Role.GATEWAY,),
    "forebay_wire.v1.stage.Stage": (Role.WORKER,),
    "grpc.health.v1.Health": tuple(Role),
}
"""Who may call which service over the network."""

FAREWELL_SECONDS = 1.0
"""The operator has to hear that we leave; without an answer we go all the same."""

SERVER_OPTIONS = (
    # What a gateway takes (16 MiB), written as JSON anew and with the tokens so far.
    ("grpc.max_receive_message_length", 64 << 20),
)


def live(seat: Seat) -> int:
    """A forked process's whole life; the exit status."""
    log_to(worker=seat.name)
    return asyncio.run(_live(seat))


async def _live(seat: Seat) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(seat)
    try:
        await worker.start()
        await worker.until(stop)
        await worker.drain(seat.config.drain_seconds)
    finally:
        await worker.close()
    return 0


class Changes:
    """Told from any thread that what a report says has changed; tells ``listener`` on the loop, many calls in one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._told = False
        self._heard = asyncio.Event()
        self.listener: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody reports any more
            self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        with self._lock:
            self._told = False
        self._heard.set()
        self.listener()

    async def wait(self, seconds: float) -> None:
        """Until the next change, ``seconds`` at most."""
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()


class Worker:
    """The parts of one worker and how they are joined."""

    def __init__(self, seat: Seat) -> None:
        config = seat.config
        self._seat = seat
        self._state = WorkerState.STARTING
        self._suspicions: set[FaultReason] = set()
        self._leaving = False
        self._changes = Changes()
        self._device = Device.open(config.device, config.device_memory, seat.index, config.count)
        torch.set_num_threads(self._device.threads)  # the zygote had one
        compute_alone()
        own = Bucket(config.link_rate) if config.link_rate else None
        self._loader = Loader(
            self._device,
            Link(own, seat.shared_bucket),
            landed=lambda unit: self._holdings.landed(unit),
            failed=lambda backbone, error: self._holdings.failed(backbone, error),
        )
        self._hops = Hops(
            lambda frame, tensor: self._executor.step(frame, tensor),
            lambda key, reason: self._executor.neighbour_lost(key, reason),
            loop=asyncio.get_running_loop(),
            unix=str(config.socket(seat.name, "hop")),
            identity=config.identity,
        )
        self._executor = Executor(self._device, seat.cores, self._loader, self._hops, self._changes)
        self._vigil = Vigil(self._device.card, self._changes) if self._device.kind == "cuda" else None
        self._holdings = Holdings(self._loader, self._executor, self._changes)
        self._preparations = Preparations(seat, self._holdings, self._executor, self._changes)
        self._commands = Commands(seat.name, self._holdings, self._preparations, self._executor, self._changes)
        self._service = EngineService(self._executor, self._preparations.parts, lambda: self._draining)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=[Guard(CALLERS, config.identity)], options=SERVER_OPTIONS)
        self._attachment: Attachment | None = None
        self._attaching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then tell the operator."""
        addresses = await self._listen()
        reporter = Reporter(
            self._seat, self._device, addresses, self._loader, self._executor, self._holdings, self._preparations,
            self._commands,
        )  # fmt: skip
        self._step(WorkerEvent.LISTENING)

        def report() -> fleet_pb2.WorkerReport:
            faults = (*self._executor.faults(), *(self._vigil.faults if self._vigil else ()))
            self._suspect(faults)
            return reporter.report(self._state, faults)

        config = self._seat.config
        self._attachment = Attachment(
            config.operator, config.identity, report=report, sent=self._commands.carried, obey=self._commands.obey
        )
        self._changes.listener = self._attachment.changed
        self._attaching = asyncio.create_task(self._attachment.run(), name="attach")
        log.info("worker.ready", incarnation=self._seat.incarnation, device=self._device.name)

    async def until(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set. Raises what ended the attachment, which never ends by itself."""
        assert self._attaching is not None
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, self._attaching], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._attaching.done():
            self._attaching.result()

    async def drain(self, seconds: float) -> None:
        """Take nothing new and let what runs finish, for ``seconds`` at most."""
        self._leaving = True
        self._step(WorkerEvent.STOP)
        self._changes()
        deadline = asyncio.get_running_loop().time() + seconds
        while self._busy() and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await self._changes.wait(left)
        if self._attachment:
            await self._attachment.leave(FAREWELL_SECONDS)
        await self._detach()
        self._step(WorkerEvent.DONE)

    async def close(self) -> None:
        """End every part. Safe after a start that failed half-way."""
        await self._health.enter_graceful_shutdown()
        await self._detach()
        await self._server.stop(grace=0.2)
        await self._commands.close()
        self._preparations.close()
        self._executor.close()
        if self._vigil:
            self._vigil.close()
        self._loader.close()
        self._hops.close()
        self._seat.config.socket(self._seat.name, "engine").unlink(missing_ok=True)

    async def _detach(self) -> None:
        if self._attaching:
            self._attaching.cancel()
            await asyncio.gather(self._attaching, return_exceptions=True)

    @property
    def _draining(self) -> bool:
        return self._state is not WorkerState.READY

    def _suspect(self, faults: Iterable[Fault]) -> None:
        """A fault of the device quarantines for good, but for one: answers that are no numbers, once their backbone has
        left."""
        reasons = {fault.reason for fault in faults} - {FaultReason.STEP_FAILED}
        if FaultReason.STEP_OVERDUE in reasons - self._suspicions:  # the others are counted where they happen
            faults_total.labels(FaultReason.STEP_OVERDUE).inc()
        self._suspicions |= reasons
        if reasons and self._state is not WorkerState.FAULTED:
            self._step(WorkerEvent.FAULT)
        elif not reasons and self._suspicions == {FaultReason.NOT_A_NUMBER} and not self._leaving:
            self._suspicions.clear()
            self._step(WorkerEvent.ABSOLVED)

    def _step(self, event: WorkerEvent) -> None:
        before, self._state = self._state, WORKER.next(self._state, event)
        if before is not self._state:
            log.info("worker.state", state=self._state, before=before)

    def _busy(self) -> bool:
        """Whether a request could still need this worker. Pipelines without any are dissolved by their head on the way,
        whose neighbours learn it from the closed connection."""
        busy = False
        for pipeline in self._executor.pipelines():
            if pipeline.phase in (Phase.BROKEN, Phase.DRAINED):
                continue
            if pipeline.head:
                self._executor.dissolve_unasked(pipeline.epoch, "its head is stopping")
            busy = True
        return busy

    async def _listen(self) -> model_pb2.Addresses:
        config = self._seat.config
        engine_pb2_grpc.add_EngineServicer_to_server(self._service, self._server)
        stage_pb2_grpc.add_StageServicer_to_server(self._hops.service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        unix = config.socket(self._seat.name, "engine")
        unix.unlink(missing_ok=True)
        add_port(self._server, f"unix:{unix}", config.identity)
        host = f"[{config.listen}]" if ":" in config.listen else config.listen
        tcp = f"{host}:{add_port(self._server, f'{host}:0', config.identity)}"
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return model_pb2.Addresses(
            engine_unix=str(unix),
            engine_tcp=tcp,
            hop_unix=self._hops.unix,
            hop_tcp=tcp,
            metrics=self._serve_metrics(host),
        )

    def _serve_metrics(self, host: str) -> str:
        """The URL. On all interfaces when a port was asked for, since scrapers and probes come from elsewhere."""
        REGISTRY.register(WorkerCollector(self._device, self._loader, self._executor, self._holdings))
        if identity := self._seat.config.identity:
            REGISTRY.register(Expiry(identity))
        if not (port := self._seat.config.metrics_port):
            return f"http://{LOOPBACK}:{expose(0, LOOPBACK)}/metrics"
        expose(port, "::" if host.startswith("[") else "0.0.0.0")
        return f"http://{host}:{port}/metrics"
