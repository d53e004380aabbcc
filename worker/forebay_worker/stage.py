"""The device thread: everything that computes, and everything that changes what is resident, happens on it.

    loop, loader, hop readers ── calls, in order ──▶ one thread:  calls first, then one operation of each pipeline's
                                                                 foremost step that has what it needs, and so on

It waits for calls only, never for weights: a step that misses something is parked in its lane, and other pipelines,
cancellations and commands go on. May not live here: what a step does (``segment``), who runs next (``engine``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import ParamSpec

import structlog
import torch
from prometheus_client import Counter

from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker.cores import Share
from forebay_worker.device import Device, blames_device
from forebay_worker.engine.head import Sink
from forebay_worker.engine.request import Request
from forebay_worker.engine.text import Text
from forebay_worker.formation import Fault, FaultReason, Formation, PipelineStatus, Probe
from forebay_worker.hop import Hops, Key
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.load.stream import Landed
from forebay_worker.model.skeleton import Skeleton
from forebay_worker.pipelines import Pipelines
from forebay_worker.probe import measure
from forebay_worker.residence import Loads, Residence
from forebay_worker.segment import Tally
from forebay_worker.team import Team

log = structlog.get_logger(__name__)

OVERDUE_SECONDS = 120.0  # for one operation
QUIET_SECONDS = 0.2  # without work, after which the books are checked
CLOSE_SECONDS = 10.0

call_failures_total = Counter("forebay_device_call_failures_total", "Calls to the device thread that raised")

P = ParamSpec("P")


class Executor:
    """All methods are thread-safe and return at once; what they ask for happens in the order they were called.

    ``changed`` is called, by the device thread, when ``pipelines()`` or ``faults()`` tells something new.
    """

    def __init__(self, device: Device, share: Share, loader: Loads, hops: Hops, changed: Callable[[], None]) -> None:
        self._device = device
        self._loader = loader
        self._hops = hops
        self._changed = changed
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._pipelines = Pipelines(device, hops)
        self._team = Team(device.threads, share)
        self._residences: dict[str, Residence] = {}
        self._probes: deque[tuple[str, Callable[[Probe], None]]] = deque()
        self._status: tuple[PipelineStatus, ...] = ()
        self._reported: tuple[object, ...] = ()  # what is worth a report, as of the last one
        self._checked = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    # What others ask for: any thread.

    def prepare(self, checkpoint: Checkpoint, skeleton: Skeleton, text: Text) -> None:
        """What a backbone needs besides its units; to come before they land and before its pipelines form."""
        self._put(self._prepare, checkpoint, skeleton, text)

    def forget(self, backbone: str) -> None:
        """Undo ``prepare``, unless something of it is resident or runs."""
        self._put(self._forget, backbone)

    def landed(self, unit: Landed) -> None:
        self._put(self._land, unit)

    def announce(self, formation: Formation) -> None:
        """``form`` or ``refuse`` follows: frames of the stage before wait for that."""
        if len(formation.stages) > 1:
            self._hops.announce(Key(formation.epoch, formation.index))

    def refuse(self, formation: Formation) -> None:
        """What was announced will not be formed: whoever waits for it learns so."""
        self._hops.refuse(Key(formation.epoch, formation.index))

    def form(self, formation: Formation) -> None:
        """Be this stage of this pipeline. One that cannot be formed, for want of memory say, is reported as broken."""
        self._put(self._form, formation)
        if len(formation.stages) > 1:
            # Now, as a long operation must not keep frames out; and after the call above, which they must not overtake.
            self._hops.expect(Key(formation.epoch, formation.index))

    def drain(self, epoch: Epoch) -> None:
        """Take nothing new, finish what runs."""
        self._put(self._pipelines.drain, epoch)

    def dissolve(self, epoch: Epoch, reason: str) -> None:
        """Drop the pipeline; what still runs ends with pipeline_gone. It is not reported any more."""
        self._put(self._pipelines.dissolve, epoch, reason)

    def dissolve_unasked(self, epoch: Epoch, reason: str) -> None:
        """The same, unless a request of it is open here by then: ``pipelines()`` may not tell of it yet."""
        self._put(self._pipelines.dissolve_unasked, epoch, reason)

    def dissolve_all(self, backbone: str, reason: str) -> None:
        """Drop every pipeline of ``backbone``, those included that ``pipelines()`` does not tell of yet."""
        self._put(self._pipelines.dissolve_all, reason, backbone)

    def submit(self, epoch: Epoch, request: Request, sink: Sink) -> None:
        """``sink`` gets the events, on the device thread: it must not block. The last one is Ended."""
        self._put(self._pipelines.submit, epoch, request, sink)

    def cancel(self, request_id: str) -> None:
        """Nobody reads any more; a request that is not here is passed over."""
        self._put(self._pipelines.cancel, request_id)

    def step(self, frame: stage_pb2.Frame, payload: torch.Tensor | None) -> None:
        """A step from the stage before."""
        self._put(self._pipelines.arrive, frame, payload)

    def neighbour_lost(self, key: Key, reason: str) -> None:
        """A connection of the pipeline ended."""
        self._put(self._pipelines.lost, key.epoch, reason)

    def suspect(self, error: Exception) -> None:
        """Something that the driver says elsewhere: nothing computes here any more."""
        self._put(self._pipelines.suspect, error)

    def drop(self, backbone: str, units: Iterable[int], done: Callable[[frozenset[int]], None]) -> None:
        """Let units go (none given = all) but for those that a live pipeline uses.

        The loader forgets them, their memory is given back, and ``done`` is told which, on the device thread.
        """
        self._put(self._drop, backbone, frozenset(units), done)

    def probe(self, backbone: str, done: Callable[[Probe], None]) -> None:
        """Measure a layer and the head when nothing else runs. ``done`` is called on the device thread."""
        self._put(self._probes.append, (backbone, done))

    def pipelines(self) -> tuple[PipelineStatus, ...]:
        return self._status

    def faults(self) -> tuple[Fault, ...]:
        """The last ones, an operation that has been computing for too long right now, and threads that are gone."""
        since, now = self._pipelines.clock.busy_since, time.time_ns() // 1000
        found = list(self._pipelines.faults)
        if since is not None and (seconds := time.monotonic() - since) > OVERDUE_SECONDS:
            message = f"an operation has been computing for more than {OVERDUE_SECONDS:.0f} s"
            found.append(Fault(FaultReason.STEP_OVERDUE, message, now - int(seconds * 1e6)))
        ended = {"device": not (self._stopping or self._thread.is_alive()), "loader": self._loader.ended}
        for name in (name for name, gone in ended.items() if gone):
            message = f"the {name} thread has ended; the worker's log says why"
            found.append(Fault(FaultReason.DEVICE_ERROR, message, now))
        return tuple(found)

    @property
    def counters(self) -> Tally:
        """Of all pipelines since the process began."""
        return self._pipelines.tally

    @property
    def most_in_flight(self) -> Mapping[Epoch, int]:
        """By pipeline that has its head here: steps that were on their way at once, at most."""
        return self._pipelines.most_in_flight

    def close(self) -> None:
        """Dissolve everything and end the thread; returns when it has ended, after some seconds at most."""
        self._put(self._stop)
        self._thread.join(CLOSE_SECONDS)

    # The device thread.

    def _put(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        self._calls.put(partial(method, *args, **kwargs))

    @torch.inference_mode()
    def _run(self) -> None:
        self._device.enter()
        working = False
        while not self._stopping:
            call = self._next(block=not working)
            if call is not None:
                self._do(call)
                working, self._checked = True, False
            elif working:
                self._team.fit(copying=self._loader.copying)
                working = self._pipelines.turn()
                if not working:
                    self._team.rest()
            else:
                self._when_quiet()
            self._publish()

    def _next(self, *, block: bool) -> Callable[[], None] | None:
        """The next call; None when there is none, or none came in a quiet time after which there is something to do."""
        quiet = None if self._checked and not self._probes else QUIET_SECONDS
        try:
            return self._calls.get(block, quiet)
        except Empty:
            return None

    def _do(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            call_failures_total.inc()
            log.exception("a call to the device thread failed", phase="call")
            if blames_device(error):
                self._pipelines.suspect(error)

    def _publish(self) -> None:
        if not self._pipelines.changed:
            return
        self._pipelines.changed = False
        self._status = self._pipelines.status()
        before, self._reported = self._reported, (*map(_told, self._status), *self._pipelines.faults)
        if before != self._reported:
            self._changed()

    def _when_quiet(self) -> None:
        if self._probes and self._pipelines.idle:
            backbone, done = self._probes.popleft()
            self._do(partial(self._probe, backbone, done))
        if not self._checked:
            self._pipelines.check()
            self._checked = True

    def _prepare(self, checkpoint: Checkpoint, skeleton: Skeleton, text: Text) -> None:
        if checkpoint.model.backbone not in self._residences:
            skeleton.to(self._device.torch_device)
            self._residences[checkpoint.model.backbone] = Residence(
                checkpoint, skeleton, text, self._loader, self._calls.put
            )

    def _forget(self, backbone: str) -> None:
        residence = self._residences.get(backbone)
        if residence is not None and not residence.skeleton.resident and not self._pipelines.units_in_use(backbone):
            del self._residences[backbone]

    def _land(self, unit: Landed) -> None:
        residence = self._residences.get(unit.backbone)
        if residence is None:
            error = ValueError(f"unit {unit.unit} of {unit.backbone} landed, which is not prepared here")
            self._loader.refuse(unit, error)
            unit.discard()
            raise error
        residence.land(unit)

    def _form(self, formation: Formation) -> None:
        self._pipelines.form(formation, self._residences.get(formation.backbone))

    def _drop(self, backbone: str, units: frozenset[int], done: Callable[[frozenset[int]], None]) -> None:
        residence = self._residences.get(backbone)
        if residence is None:
            self._loader.forget(backbone, units or None)
            done(units)
            return
        if not units:
            self._pipelines.absolve(backbone)
        wanted = units or frozenset(unit.index for unit in residence.checkpoint.model.units)
        gone = wanted - self._pipelines.units_in_use(backbone)
        try:
            residence.drop(gone)
            self._device.trim()
        finally:  # they are gone, even where a sick device raises
            done(gone)

    def _probe(self, backbone: str, done: Callable[[Probe], None]) -> None:
        if residence := self._residences.get(backbone):
            found = Probe(backbone, (), ())
            try:
                found = measure(residence.checkpoint, residence.skeleton, self._device, self._team)
            finally:  # whoever waits for it asks once
                done(found)
                self._team.rest()

    def _stop(self) -> None:
        try:
            self._pipelines.dissolve_all("the worker stops")
            for residence in self._residences.values():
                residence.close()
        finally:  # a sick device raises at everything
            self._stopping = True


def _told(status: PipelineStatus) -> tuple[object, ...]:
    """What is worth a report of its own; how many blocks are free goes with the next one."""
    return status.epoch, status.index, status.phase, status.running, status.waiting
