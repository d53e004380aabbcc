"""One unit on its way from file to device: what is left of it, what it has cost, and when it came.

May not live here: which unit, threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from forebay_worker.device import Device, Reservation
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.load.copy import Arena, Filling, Mapped, Pinned, PinnedRing, Ready
from forebay_worker.load.link import Link
from forebay_worker.load.plan import Phase, Pick, Piece, pieces
from forebay_worker.load.source import Source

PIECE_BYTES = 1 << 20
LEAST_PIECE_BYTES = 16 << 10
PIECE_SECONDS = 0.02  # of an emulated link: rows wait for one piece at most


@dataclass(frozen=True)
class Landed:
    """A unit on the device. Who takes it releases ``reservation`` after letting the tensors go; ``event`` (CUDA) is to
    be waited for by the stream that computes."""

    backbone: str
    unit: int
    tensors: dict[str, torch.Tensor]
    reservation: Reservation
    event: torch.cuda.Event | None = None

    def discard(self) -> None:
        """Nobody will use it: wait until nothing writes into its memory any more, and give its line back."""
        try:
            if self.event is not None:
                self.event.synchronize()
        finally:  # a sick device keeps no books
            self.reservation.release()


@dataclass(frozen=True, slots=True)
class UnitLoad:
    """Times in unix microseconds, 0 = not yet: first byte asked of the link, unit ready. ``bytes`` have crossed."""

    unit: int
    phase: Phase
    asked_unix_us: int = 0
    landed_unix_us: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Progress:
    """What is known of a unit since it was begun. ``handed`` is the reservation that went with it when it landed: not
    the tensors, which must die with their last user."""

    asked_unix_us: int = 0
    landed_unix_us: int = 0
    bytes: int = 0
    handed: Reservation | None = None

    def state(self, unit: int, phase: Phase) -> UnitLoad:
        return UnitLoad(unit, phase, self.asked_unix_us, self.landed_unix_us, self.bytes)


class Way:
    """How bytes come to this device: over which link, in pieces of which size, by which means."""

    def __init__(self, device: Device, link: Link) -> None:
        self.device = device
        self.link = link
        # Pinning takes a while, so it is done before anything is asked for.
        self._ring = PinnedRing(device) if device.kind == "cuda" else None

    @property
    def piece_bytes(self) -> int:
        if self.link.paced:
            return int(min(PIECE_BYTES, max(LEAST_PIECE_BYTES, self.link.rate * PIECE_SECONDS)))
        return PinnedRing.BYTES if self._ring else PIECE_BYTES

    def filling(self, checkpoint: Checkpoint, unit: int, source: Source) -> Filling:
        tensors, dtype = checkpoint.tensors[unit], checkpoint.model.dtype
        if self._ring:
            return Pinned(self.device, tensors, dtype, source, self._ring)
        if self.copies(checkpoint, unit):
            return Arena(self.device, tensors, dtype, source)
        # Over an emulated link too, which says when bytes are there: a copy would take the cores that compute, where a
        # GPU's engine copies by itself (fresh memory costs up to 3.5 ms of CPU time a megabyte in a virtual machine).
        return Mapped(tensors, source)

    def copies(self, checkpoint: Checkpoint, unit: int) -> bool:
        """Whether moving its bytes takes a core of those that compute."""
        return self._ring is None and any(tensor.dtype != checkpoint.model.dtype for tensor in checkpoint.tensors[unit])


@dataclass(slots=True, eq=False)
class Begun:
    """A unit whose memory is reserved. ``seconds`` were spent moving its bytes, not waiting for an emulated link.
    ``waiting``: its next piece is on its way; ``nudge`` is called, by any thread, when there is more of it."""

    pick: Pick
    checkpoint: Checkpoint
    reservation: Reservation
    way: Way
    nudge: Callable[[], None]
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    source: Source = field(init=False)
    left: deque[Piece] = field(init=False)
    filling: Filling | None = None
    copying: bool = field(init=False)
    waiting: bool = False
    _due: tuple[float, float] | None = None  # when its next piece was asked for, and when the link has brought it

    def __post_init__(self) -> None:
        self.copying = self.way.copies(self.checkpoint, self.pick.unit)
        self.source = Source(self.checkpoint.stamps, self.checkpoint.artifact)
        self.left = deque(pieces(self.checkpoint.tensors[self.pick.unit], self.way.piece_bytes))

    def advance(self, stop: threading.Event) -> int:
        """Bring a piece over; returns its bytes, 0 if none was left, it is still on its way or ``stop`` was set.
        Raises CheckpointError."""
        if self.filling is None:
            self.progress.asked_unix_us = unix_us()
            self.source.expect((piece.file, piece.offset, piece.offset + piece.nbytes) for piece in self.left)
            self.filling = self.way.filling(self.checkpoint, self.pick.unit, self.source)
        if not self.left:
            return 0
        piece = self.left[0]
        started, available = self._due = self._due or (time.monotonic(), self.way.link.charge(piece.nbytes))
        self.waiting = True  # before it is asked for, or what comes at once would be missed
        if self.source.coming(piece.file, piece.offset, piece.nbytes, self._arrived):
            return 0
        self.waiting, self._due = False, None
        self.left.popleft()
        self.filling.move(piece)
        self.seconds += time.monotonic() - started
        if not self.way.link.wait(available, stop):
            self.left.appendleft(piece)
            return 0
        self.progress.bytes += piece.nbytes
        return piece.nbytes

    def _arrived(self) -> None:
        self.waiting = False
        self.nudge()

    def finish(self) -> Landed | None:
        """The unit, when no piece is left."""
        if self.left or self.filling is None:
            return None
        self.source.close()
        ready: Ready = self.filling.finish()
        return Landed(self.pick.backbone, self.pick.unit, ready.tensors, self.reservation, ready.event)

    def abandon(self) -> None:
        filling, self.filling = self.filling, None
        try:
            if filling is not None:
                filling.abandon()
        finally:
            self.source.close()
            self.reservation.release()


def unix_us() -> int:
    return time.time_ns() // 1000
