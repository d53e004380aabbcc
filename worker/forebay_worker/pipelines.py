"""The pipelines that this worker has a stage of: formed, turned operation by operation, broken, dissolved.

Owned by the device thread. What goes wrong in one pipeline is the end of that one and of nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import structlog
import torch
from prometheus_client import Counter

from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker.device import Device, OutOfMemory, blames_device, lacks_memory
from forebay_worker.engine.batch import Limits
from forebay_worker.engine.blocks import BlockPool, IntegrityError
from forebay_worker.engine.capacity import Capacity
from forebay_worker.engine.head import Head, Sink, UnknownStep
from forebay_worker.engine.request import Ended, Refused, Request
from forebay_worker.engine.sample import NotFinite
from forebay_worker.formation import Fault, FaultReason, Formation, Happening, Phase, PipelineStatus
from forebay_worker.frame import HopLost
from forebay_worker.hop import Hop, Hops, Key, Peer
from forebay_worker.residence import Residence
from forebay_worker.segment import Segment, Tally, kv_bytes

log = structlog.get_logger(__name__)

BUDGET = {"cpu": 256, "cuda": 2048}  # tokens a step
FAULTS_KEPT = 16
KV_OWNER = "kv "  # begins the owner's name of KV in the memory ledger

broken_total = Counter("forebay_pipelines_broken_total", "Pipelines that broke here")
submit_failures_total = Counter("forebay_submit_failures_total", "Requests whose taking in raised")
late_total = Counter("forebay_late_frames_total", "Frames for a pipeline that is not live here")
faults_total = Counter("forebay_faults_total", "Reasons to suspect the device, or a model", ["reason"])
for _reason in FaultReason:
    faults_total.labels(_reason)  # from the start: a rate sees no rise where there was nothing before
integrity_total = Counter("forebay_integrity_failures_total", "Books that did not add up when a pipeline was idle")

# What a request is told whose pipeline is in no state to take it.
CLOSED = {
    Phase.DRAINING: Refused.PIPELINE_DRAINING,
    Phase.DRAINED: Refused.PIPELINE_DRAINING,
    Phase.BROKEN: Refused.PIPELINE_GONE,
}


@dataclass(slots=True)
class Clock:
    """When the operation that runs began, in monotonic seconds; read by other threads."""

    busy_since: float | None = None


class Pipelines:
    def __init__(self, device: Device, hops: Hops) -> None:
        self._device = device
        self._hops = hops
        self._segments: dict[Key, Segment] = {}
        self._unformed: dict[Key, PipelineStatus] = {}  # told to form, and could not
        self._past = Tally()  # of those that are dissolved
        self.clock = Clock()
        self.faults: deque[Fault] = deque(maxlen=FAULTS_KEPT)  # replaced or appended to, never emptied: others read it
        self.changed = False  # since somebody last looked: there is another status to tell

    def form(self, formation: Formation, residence: Residence | None) -> None:
        """Idempotent. A stage that cannot be formed is reported as broken, with the reason."""
        key = Key(formation.epoch, formation.index)
        if key in self._segments:
            return
        try:
            self._segments[key] = self._segment(formation, residence)
        except (OutOfMemory, _NotPrepared, RuntimeError, OSError, ValueError) as error:  # also what devices raise
            log.warning("pipeline not formed", **_names(formation), phase="form", reason=str(error))
            self._unformed[key] = PipelineStatus.unformed(formation, str(error))
            self._hops.refuse(key)
            if blames_device(error):
                self.suspect(error)
        else:
            self._unformed.pop(key, None)
            log.info("pipeline formed", **_names(formation), phase="form", stage=formation.index)
        self.changed = True

    def drain(self, epoch: Epoch) -> None:
        for segment in self._of(epoch):
            segment.happen(Happening.DRAIN)
            self.changed = True

    def dissolve(self, epoch: Epoch, reason: str) -> None:
        """Its requests end with pipeline_gone, its memory is free; it is not reported any more."""
        ended = [key for key in self._segments if key.epoch == epoch]
        for key in ended:
            self._end(self._segments.pop(key), reason)
        for key in [key for key in self._unformed if key.epoch == epoch]:
            del self._unformed[key]
        self.changed = True
        if ended:
            self._device.trim()

    def dissolve_unasked(self, epoch: Epoch, reason: str) -> None:
        """A step of a request that has ended holds up nobody: it may wait for weights that never come."""
        if not any(segment.head is not None and segment.head.asked for segment in self._of(epoch)):
            self.dissolve(epoch, reason)

    def dissolve_all(self, reason: str, backbone: str | None = None) -> None:
        """Those of ``backbone``; None = every one."""
        for epoch in {each.epoch for each in self.status() if backbone in (None, each.backbone)}:
            self.dissolve(epoch, reason)

    def lost(self, epoch: Epoch, reason: str) -> None:
        """A neighbour is gone: the connections are closed, so that those on the other side learn it at once."""
        for segment in self._of(epoch):
            self._break(segment, reason)

    def submit(self, epoch: Epoch, request: Request, sink: Sink) -> None:
        segment = next((each for each in self._of(epoch) if each.head is not None), None)
        if segment is None or segment.head is None:
            sink(Ended(Refused.PIPELINE_UNKNOWN, f"no pipeline {epoch} has its head here"))
        elif segment.phase in CLOSED:
            sink(Ended(CLOSED[segment.phase], f"pipeline {epoch} is {segment.phase.lower()}"))
        else:
            self._take_in(segment.head, request, sink)
            self._guarded(segment, segment.pump)
        self.changed = True

    def cancel(self, request_id: str) -> None:
        for segment in tuple(self._segments.values()):
            if segment.head is not None and segment.head.cancel(request_id):
                segment.settle()
                self._guarded(segment, segment.pump)
                self.changed = True

    def arrive(self, frame: stage_pb2.Frame, tensor: torch.Tensor | None) -> None:
        """A step from the stage before. One of a pipeline that is not live here is passed over, and its sender told."""
        segment = self._segments.get(Key.of(frame))
        if segment is None or not segment.live:
            late_total.inc()
            self._hops.refuse(Key.of(frame))
            return
        self._guarded(segment, lambda: segment.arrive(frame, tensor))

    def turn(self) -> bool:
        """One operation of every pipeline that has one to run; False when none has."""
        worked = False
        for segment in tuple(self._segments.values()):
            steps = segment.steps
            self.clock.busy_since = time.monotonic()
            worked |= self._guarded(segment, segment.turn)
            self.clock.busy_since = None
            if segment.steps != steps:
                self.changed = True
                if segment.live:  # what failed before was no matter of the backbone
                    self._pardon(segment.formation.backbone, FaultReason.STEP_FAILED)
        return worked

    def absolve(self, backbone: str) -> None:
        """The operator lets go of all of ``backbone``: what was no number was its doing, if it says no more."""
        self._pardon(backbone, FaultReason.NOT_A_NUMBER, FaultReason.STEP_FAILED)

    def suspect(self, error: Exception) -> None:
        """The device: the driver says so outside of any step."""
        log.error("the device is sick", phase="call", reason=str(error))
        self._accuse(FaultReason.DEVICE_ERROR, error)

    def units_in_use(self, backbone: str) -> frozenset[int]:
        """Of live pipelines, resident or still to land."""
        live = (segment.formation for segment in self._segments.values() if segment.live)
        return frozenset(unit for each in live if each.backbone == backbone for unit in each.mine.units)

    @property
    def idle(self) -> bool:
        return all(segment.idle for segment in self._segments.values())

    @property
    def tally(self) -> Tally:
        return sum((segment.tally for segment in tuple(self._segments.values())), self._past)

    @property
    def most_in_flight(self) -> Mapping[Epoch, int]:
        """By pipeline that has its head here: steps that were on their way at once, at most."""
        heads = (segment for segment in tuple(self._segments.values()) if segment.head is not None)
        return {segment.formation.epoch: segment.most_in_flight for segment in heads}

    def status(self) -> tuple[PipelineStatus, ...]:
        return (*(segment.status() for segment in self._segments.values()), *self._unformed.values())

    def check(self) -> None:
        """Every reserved byte of KV has a pipeline, and with no request open every block is free."""
        known = sum(each.kv_bytes for each in self.status())
        reserved = sum(size for owner, size in self._device.memory.by_owner().items() if owner.startswith(KV_OWNER))
        if reserved != known:
            integrity_total.inc()
            log.error("books do not add up", phase="check", reason=f"{reserved} bytes of KV reserved, {known} known")
        for segment in self._segments.values():
            if segment.live and segment.idle and segment.head is not None:
                try:
                    segment.head.check()
                except IntegrityError:
                    integrity_total.inc()
                    log.exception("books do not add up", **_names(segment.formation), phase="check")

    def _take_in(self, head: Head, request: Request, sink: Sink) -> None:
        try:
            head.submit(request, sink)
        except Exception:
            submit_failures_total.inc()
            log.exception("a request could not be taken in", request_id=request.request_id, phase="submit")
            if not head.cancel(request.request_id):
                sink(Ended(Refused.INVALID_REQUEST, "the request could not be taken in; the worker's log says why"))

    def _of(self, epoch: Epoch) -> Iterator[Segment]:
        return iter([segment for key, segment in self._segments.items() if key.epoch == epoch])

    def _segment(self, formation: Formation, residence: Residence | None) -> Segment:
        if residence is None:
            raise _NotPrepared(f"backbone {formation.backbone} is not prepared here")
        owner = f"{KV_OWNER}{formation.epoch}.{formation.index}"
        reservation = self._device.memory.reserve(owner, kv_bytes(formation, residence))
        hop = None
        try:
            head = self._head(formation, residence) if formation.head else None
            hop = self._connect(formation) if len(formation.stages) > 1 else None
            return Segment(formation, residence, reservation, hop, head)
        except BaseException:
            if hop is not None:
                hop.close()
            reservation.release()
            raise

    def _connect(self, formation: Formation) -> Hop:
        place = formation.stages[formation.after]
        return self._hops.connect(Key(formation.epoch, formation.after), Peer(place.hop_unix, place.hop_tcp))

    def _head(self, formation: Formation, residence: Residence) -> Head:
        model = residence.checkpoint.model
        capacity = Capacity(
            max_model_len=min(formation.max_model_len or model.max_model_len, model.max_model_len),
            kv_tokens=formation.kv_blocks * formation.block_tokens,
            vocabulary=model.vocab_size,
        )
        limits = Limits(BUDGET[self._device.kind], max(1, formation.steps_in_flight))
        return Head(residence.text, BlockPool(formation.kv_blocks, formation.block_tokens), limits, capacity)

    def _guarded(self, segment: Segment, work: Callable[[], bool | None]) -> bool:
        """Whether ``work`` did anything."""
        try:
            return bool(work())
        except (HopLost, UnknownStep) as error:
            self._break(segment, str(error))
        except NotFinite as error:
            self._fault(segment, FaultReason.NOT_A_NUMBER, error)
        except Exception as error:  # noqa: BLE001, whatever computing raises; _fault logs and counts it
            if lacks_memory(error):  # no fault of the device; its frames hold what is to be trimmed
                self._break(segment, f"out of memory: {error.with_traceback(None)}")
                self._device.trim()
            else:
                reason = FaultReason.DEVICE_ERROR if blames_device(error) else FaultReason.STEP_FAILED
                self._fault(segment, reason, error)
        return True

    def _pardon(self, backbone: str, *reasons: FaultReason) -> None:
        left = [fault for fault in self.faults if fault.backbone != backbone or fault.reason not in reasons]
        if len(left) != len(self.faults):
            self.changed = True
            self.faults = deque(left, maxlen=FAULTS_KEPT)

    def _fault(self, segment: Segment, reason: FaultReason, error: Exception) -> None:
        log.error("step failed", **_names(segment.formation), phase="step", reason=reason, exc_info=error)
        self._accuse(reason, error, segment.formation.backbone)
        self._break(segment, f"{reason}: {error}")

    def _accuse(self, reason: FaultReason, error: Exception, backbone: str = "") -> None:
        faults_total.labels(reason).inc()
        self.faults.append(Fault(reason, f"{type(error).__name__}: {error}", time.time_ns() // 1000, backbone))
        self.changed = True

    def _break(self, segment: Segment, reason: str) -> None:
        live = segment.live
        segment.happen(Happening.BREAK)
        self._close(segment, reason)
        if live:
            segment.reason = reason
            broken_total.inc()
            log.warning("pipeline broken", **_names(segment.formation), phase="break", reason=reason)
            self.lost(segment.formation.epoch, reason)  # its other stages here
        self.changed = True

    def _end(self, segment: Segment, reason: str) -> None:
        self._close(segment, reason)
        self._past += segment.tally
        log.info("pipeline dissolved", **_names(segment.formation), phase="dissolve", reason=reason)

    def _close(self, segment: Segment, reason: str) -> None:
        segment.close(reason)
        self._hops.refuse(segment.key)


class _NotPrepared(Exception):
    """The operator formed a pipeline of a backbone that it had not prepared here."""


def _names(formation: Formation) -> dict[str, str]:
    return {"epoch": str(formation.epoch), "backbone": formation.backbone}
