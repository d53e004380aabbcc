"""What this worker was told to hold, and the way of a unit from the loader to the device thread.

    loader thread ── landed ──▶ skeleton there?  yes ▸ device thread       no ▸ waits here until it is

Bytes need no skeleton, so loading begins at once. Called from loop, loader thread and device thread; nothing blocks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from forebay_worker import process
from forebay_worker.checkpoints import Ref
from forebay_worker.device import OutOfMemory, blames_device
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError
from forebay_worker.load.stream import Landed, Loader
from forebay_worker.shelf import Parts
from forebay_worker.stage import Executor

log = structlog.get_logger(__name__)

DROP_SECONDS = 60.0
"""The device thread may be in the middle of a long operation."""


@dataclass(slots=True)
class Holding:
    """One backbone's. ``order``: as last told, less what was dropped since; ``error``: "Reason: text"."""

    ref: Ref
    checkpoint: Checkpoint | None = None
    order: tuple[int, ...] = ()
    error: str = ""
    landed: list[Landed] = field(default_factory=list)  # for want of a skeleton


class Holdings:
    """``changed`` is called, from any thread, after what a report says has changed.

    ``bare_bytes`` is the process's size before it held anything, 0 until then.
    """

    def __init__(self, loader: Loader, executor: Executor, changed: Callable[[], None]) -> None:
        self._loader = loader
        self._executor = executor
        self._changed = changed
        self._lock = threading.Lock()
        self._held: dict[str, Holding] = {}
        self._prepared: set[str] = set()
        self.bare_bytes = 0

    def seen(self) -> Mapping[str, Holding]:
        with self._lock:
            return dict(self._held)

    def checkpoint(self, backbone: str) -> Checkpoint | None:
        with self._lock:
            held = self._held.get(backbone)
            return held.checkpoint if held else None

    def hold(self, checkpoint: Checkpoint, order: Sequence[int], urgent: int) -> None:
        """Load what is missing in this order, which replaces the former one."""
        model = checkpoint.model
        self.bare_bytes = self.bare_bytes or process.memory()[0]
        with self._lock:
            held = self._held.setdefault(model.backbone, Holding(Ref(model.backbone, model.uri, model.dtype)))
            held.checkpoint, held.order, held.error = checkpoint, tuple(order), ""
        self._loader.hold(checkpoint, order, urgent)
        self._changed()

    def refuse(self, ref: Ref, error: str) -> None:
        """It cannot be held, and ``error`` says why."""
        log.warning("hold.refused", backbone=ref.backbone, reason=error)
        with self._lock:
            self._held.setdefault(ref.backbone, Holding(ref)).error = error
        self._changed()

    async def drop(self, backbone: str, units: Collection[int]) -> None:
        """Let units go (none given = all), but for those that a live pipeline uses. Raises TimeoutError."""
        with self._lock:
            held, prepared = self._held.get(backbone), backbone in self._prepared
        if held is None:
            return
        if prepared:
            gone = await self._drop_on_device(backbone, units)
        else:
            gone = self._drop_waiting(held, backbone, units)
        left = {load.unit for load in self._loader.states(backbone)}
        with self._lock:
            held.order = tuple(unit for unit in held.order if unit not in gone)
            if not left:
                self._held.pop(backbone, None)
        if not left:
            await asyncio.to_thread(process.give_memory_back)
        log.info("units.dropped", backbone=backbone, units=len(gone), left=len(left))
        self._changed()

    def prepared(self, parts: Parts) -> None:
        """The skeleton is there: hand it over, and after it the units that have been waiting for it."""
        with self._lock:
            if parts.backbone in self._prepared:
                return
            self._executor.prepare(parts.checkpoint, parts.skeleton, parts.text)
            self._prepared.add(parts.backbone)
            held = self._held.get(parts.backbone)
            waiting = tuple(held.landed) if held else ()
            if held:
                held.landed.clear()
            for unit in waiting:
                self._executor.landed(unit)

    def unprepared(self, backbone: str) -> None:
        """The skeleton of a backbone that is not held is let go."""
        with self._lock:
            self._prepared.discard(backbone)
            self._executor.forget(backbone)

    def landed(self, unit: Landed) -> None:
        """From the loader thread."""
        with self._lock:
            held = self._held.get(unit.backbone)
            if unit.backbone in self._prepared:
                self._executor.landed(unit)
            elif held and self._loader.wanted(unit):
                held.landed.append(unit)
            else:  # dropped meanwhile
                unit.discard()
        self._changed()

    def failed(self, backbone: str, error: Exception) -> None:
        """From the loader thread: loading of this backbone has stopped."""
        log.error("load.failed", backbone=backbone, reason=_reason(error))
        if blames_device(error):
            self._executor.suspect(error)
        with self._lock:
            if held := self._held.get(backbone):
                held.error = _reason(error)
        self._changed()

    async def _drop_on_device(self, backbone: str, units: Collection[int]) -> frozenset[int]:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[frozenset[int]] = loop.create_future()

        def tell(units: frozenset[int]) -> None:
            if not gone.done():  # else nobody waits any more
                gone.set_result(units)

        def done(units: frozenset[int]) -> None:
            loop.call_soon_threadsafe(tell, units)

        self._executor.drop(backbone, units, done)
        async with asyncio.timeout(DROP_SECONDS):
            return await gone

    def _drop_waiting(self, held: Holding, backbone: str, units: Collection[int]) -> frozenset[int]:
        """Without a skeleton no pipeline can use them."""
        known = frozenset(load.unit for load in self._loader.states(backbone))
        gone = known.intersection(units) if units else known
        self._loader.forget(backbone, units or None)
        with self._lock:
            for unit in held.landed:
                if unit.unit in gone:
                    unit.discard()
            held.landed = [unit for unit in held.landed if unit.unit not in gone]
        return gone


def _reason(error: Exception) -> str:
    match error:
        case CheckpointError():
            return f"{error.reason}: {error.message}"
        case OutOfMemory():
            return f"OutOfMemory: {error}"
        case _:
            return f"LoadFailed: {error}"
