"""The loader: one thread that brings units onto the device, in an order that may change while it works.

    hold ─▶ Queue ─▶ reserve memory ─▶ pieces, each charged to the link ─▶ landed(unit)      failed(backbone)
                       rows ───────────────▲ before the next piece

What has to be fetched first is waited for by nobody: rows come again when they are here, and other backbones go on.

Nothing is read twice, and nothing is loaded without a line in the device's ledger: that line travels with the unit, and
who lets the unit go releases it. Peak memory: the units that have landed, one of a backbone on its way, and a piece.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from forebay_worker.device import Device, OutOfMemory
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.load.landing import Begun, Landed, Progress, UnitLoad, Way, unix_us
from forebay_worker.load.link import Link
from forebay_worker.load.plan import Pick, Queue
from forebay_worker.load.rows import Done, Rows
from forebay_worker.team import compute_alone

__all__ = ["Landed", "Loader", "UnitLoad"]

log = structlog.get_logger(__name__)

MEMORY_PATIENCE_SECONDS = 2.0  # a unit waits this long for memory that is being let go
FAR_ROWS = 8  # rows that come from elsewhere, at once
RATE_MEMORY = 0.7  # weight of the past in the measured rate, per unit


@dataclass(frozen=True, slots=True)
class _Refused:
    backbone: str
    error: OutOfMemory


@dataclass(slots=True)
class _Held:
    checkpoint: Checkpoint
    progress: dict[int, Progress] = field(default_factory=dict)


class Loader:
    """``landed`` and ``failed`` are called by the loader thread, ``failed`` also by who refuses a unit, and must not
    block. After ``failed`` nothing more of that backbone is loaded until it is held again; its landed units stay."""

    def __init__(
        self,
        device: Device,
        link: Link,
        landed: Callable[[Landed], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._device, self._link, self._landed, self._failed = device, link, landed, failed
        self._way = Way(device, link)
        self._wake = threading.Condition()
        self._queue = Queue()
        self._held: dict[str, _Held] = {}
        self._begun: dict[Pick, Begun] = {}
        self._abandoned: list[Begun] = []
        self._rows: deque[Rows] = deque()
        self._far = ThreadPoolExecutor(FAR_ROWS, "rows")  # no source that is slow may hold up the loader
        self._unread: dict[str, list[Rows]] = {}  # failed, and tried again when their backbone is
        self._starved_since: float | None = None
        self._stop = threading.Event()
        self._copying = False
        self._measured = 0.0
        self.bytes_read = 0
        self.row_bytes_read = 0
        device.memory.watch(self._nudge)
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    # What others ask for: any thread, never blocking.

    def hold(self, checkpoint: Checkpoint, order: Sequence[int], urgent: int) -> None:
        """Load what is missing of ``order``, which replaces the former one; its first ``urgent`` before background."""
        units = len(checkpoint.tensors)
        if wrong := [unit for unit in order if not 0 <= unit < units]:
            raise ValueError(f"unit {wrong[0]} is not one of the {units} of {checkpoint.model.backbone}")
        backbone = checkpoint.model.backbone
        with self._wake:
            self._held.setdefault(backbone, _Held(checkpoint)).checkpoint = checkpoint
            self._queue.hold(backbone, order, urgent)
            self._rows.extend(self._unread.pop(backbone, ()))
            self._wake.notify()

    def forget(self, backbone: str, units: Iterable[int] | None) -> None:
        """Stop loading these units and count them as not loaded (None = all). One that had landed is not taken back:
        see ``wanted``."""
        with self._wake:
            gone = None if units is None else tuple(units)
            self._drop(backbone, self._queue.forget(backbone, gone))
            if held := self._held.get(backbone):
                for unit in tuple(held.progress) if gone is None else gone:
                    held.progress.pop(unit, None)
            if backbone not in self._queue.backbones:
                self._held.pop(backbone, None)
                self._unread.pop(backbone, None)
            self._wake.notify()

    def wanted(self, landed: Landed) -> bool:
        """Whether nobody forgot this unit since it landed. If one did: release its reservation, use no tensor."""
        with self._wake:
            held = self._held.get(landed.backbone)
            progress = held.progress.get(landed.unit) if held else None
            return progress is not None and progress.handed is landed.reservation

    def refuse(self, landed: Landed, error: Exception) -> None:
        """This unit cannot be put in place: it counts as not loaded, and its backbone as failed."""
        self.forget(landed.backbone, (landed.unit,))
        self._halt(landed.backbone)
        self._tell(landed.backbone, error)

    def rows(self, checkpoint: Checkpoint, table: str, ids: Sequence[int], done: Done) -> None:
        """Read rows of a table before anything else; ``done`` gets [len(ids), width] in the model's dtype on the
        device, in the loader thread. When they cannot be read, ``failed`` is called, and they are read when the
        backbone is held again."""
        where = checkpoint.tables[table]
        if wrong := [row for row in ids if not 0 <= row < where.shape[0]]:
            raise ValueError(f"row {wrong[0]} is not one of the {where.shape[0]} of {where.name}")
        with self._wake:
            self._rows.append(Rows(checkpoint, where, tuple(ids), done))
            self._wake.notify()

    def states(self, backbone: str) -> tuple[UnitLoad, ...]:
        """Every unit that is queued, loading or resident."""
        with self._wake:
            held = self._held.get(backbone)
            if held is None:
                return ()
            return tuple(
                held.progress.get(unit, Progress()).state(unit, phase)
                for unit, phase in self._queue.phases(backbone).items()
            )

    @property
    def ended(self) -> bool:
        """Whether the thread is gone, though nobody closed this."""
        return not (self._stop.is_set() or self._thread.is_alive())

    @property
    def copying(self) -> bool:
        """Whether a unit is on its way that takes a core of those that compute."""
        return self._copying

    @property
    def rate(self) -> float:
        """Bytes per second: of the emulated link, else as measured over the last units, else 0."""
        return self._link.rate or self._measured

    def close(self) -> None:
        """Stop and give back what is on its way. Waits for the piece that is being read, some seconds at most."""
        self._stop.set()
        self._nudge()
        self._thread.join(timeout=5.0)
        self._far.shutdown(wait=False, cancel_futures=True)

    # The loader thread.

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        self._device.enter()
        compute_alone()
        try:
            while not self._stop.is_set():
                self._turn()
        finally:
            with self._wake:
                self._abandoned.extend(self._begun.values())
                self._begun.clear()
            self._clear_abandoned()

    def _turn(self) -> None:
        """One piece, or one look-up of rows, or a sleep until something changes."""
        with self._wake:
            job = self._choose()
            self._copying = isinstance(job, Begun) and job.copying
            if job is None and not self._abandoned and not self._stop.is_set():
                if not self._waiting:
                    self._link.idle()
                self._wake.wait(self._patience())
        self._clear_abandoned()
        match job:
            case Rows():
                self._take_rows(job)
            case Begun():
                self._advance(job)
            case _Refused():
                self._fail(job.backbone, job.error)

    def _choose(self) -> Rows | Begun | _Refused | None:
        """Rows first, then the unit to go on with, begun if need be. None = nothing to do, or memory is short, or
        bytes are on their way: other backbones go on meanwhile."""
        if self._rows:
            return self._rows.popleft()
        pick = self._queue.next(self._waiting)
        if pick is None:
            self._starved_since = None
            return None
        if pick in self._begun:
            return self._begun[pick]
        held = self._held[pick.backbone]
        wanted = held.checkpoint.model.units[pick.unit].resident_bytes
        try:
            reservation = self._device.memory.reserve(pick.backbone, wanted)
        except OutOfMemory as error:
            return self._starve(pick, error)
        self._starved_since = None
        self._queue.begin(pick)
        begun = self._begun[pick] = Begun(pick, held.checkpoint, reservation, self._way, self._nudge)
        held.progress[pick.unit] = begun.progress
        return begun

    @property
    def _waiting(self) -> frozenset[str]:
        return frozenset(pick.backbone for pick, begun in self._begun.items() if begun.waiting)

    def _starve(self, pick: Pick, error: OutOfMemory) -> _Refused | None:
        """Units that were dropped just now release their memory in a moment: that is worth a short wait."""
        now = time.monotonic()
        if self._starved_since is None:
            self._starved_since = now
        if error.wanted <= error.budget and now - self._starved_since < MEMORY_PATIENCE_SECONDS:
            return None
        self._starved_since = None
        return _Refused(pick.backbone, error)

    def _patience(self) -> float | None:
        if self._starved_since is None:
            return None
        return max(0.0, self._starved_since + MEMORY_PATIENCE_SECONDS - time.monotonic())

    def _advance(self, begun: Begun) -> None:
        try:
            self.bytes_read += begun.advance(self._stop)
            landed = begun.finish()
        except Exception as error:  # noqa: BLE001, whatever files and devices raise; _fail logs it
            self._fail(begun.pick.backbone, error)
            return
        if landed and self._mark(begun, landed):
            self._landed(landed)

    def _mark(self, begun: Begun, landed: Landed) -> bool:
        """Count it as landed. False when it was forgotten meanwhile."""
        with self._wake:
            if self._begun.get(begun.pick) is not begun:
                return False
            del self._begun[begun.pick]
            self._queue.land(begun.pick)
            begun.progress.landed_unix_us = unix_us()
            begun.progress.handed = landed.reservation
            self._measure(begun)
        return True

    def _measure(self, begun: Begun) -> None:
        if begun.progress.bytes and begun.seconds > 0:
            rate = begun.progress.bytes / begun.seconds
            self._measured = RATE_MEMORY * self._measured + (1 - RATE_MEMORY) * rate if self._measured else rate

    def _take_rows(self, rows: Rows) -> None:
        """Those that come from elsewhere come again when their bytes are here."""
        if rows.checkpoint.artifact is not None and not rows.asked:
            if not self._stop.is_set():
                self._far.submit(self._bring_rows, rows)
            return
        try:
            available = self._link.charge(rows.nbytes)
            found = (rows if rows.asked else rows.read()).placed(self._device)
            if not self._link.wait(available, self._stop):
                return
        except Exception as error:  # noqa: BLE001, as above
            backbone = rows.checkpoint.model.backbone
            with self._wake:
                self._unread.setdefault(backbone, []).append(rows.anew())
            self._fail(backbone, error)
            return
        self.row_bytes_read += rows.nbytes
        rows.done(found)

    def _bring_rows(self, rows: Rows) -> None:
        came = rows.read()
        with self._wake:
            self._rows.append(came)
            self._wake.notify()

    def _fail(self, backbone: str, error: Exception) -> None:
        self._halt(backbone)
        self._clear_abandoned()
        self._tell(backbone, error)

    def _halt(self, backbone: str) -> None:
        with self._wake:
            begun = self._queue.stop(backbone)
            self._drop(backbone, begun)
            if held := self._held.get(backbone):
                for unit in begun:
                    held.progress.pop(unit, None)
            self._wake.notify()

    def _tell(self, backbone: str, error: Exception) -> None:
        log.warning("loading stopped", backbone=backbone, error=str(error))
        self._failed(backbone, error)

    def _drop(self, backbone: str, units: Iterable[int]) -> None:
        """Leave units that were begun to ``_clear_abandoned``, which the loader thread alone may call."""
        for unit in units:
            if begun := self._begun.pop(Pick(backbone, unit), None):
                self._abandoned.append(begun)

    def _clear_abandoned(self) -> None:
        while self._abandoned:
            begun = self._abandoned.pop()
            try:
                begun.abandon()
            except Exception:  # a sick device says so of everything; its memory is given back all the same
                log.exception("a unit was abandoned in disorder", backbone=begun.pick.backbone, unit=begun.pick.unit)
