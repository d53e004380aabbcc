"""Skeletons and tokenizers inside a worker: built when needed, handed to the device thread, measured when asked."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from forebay_worker.formation import Probe
from forebay_worker.holdings import Holdings
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError
from forebay_worker.shelf import CAPACITY, Parts
from forebay_worker.stage import Executor
from forebay_worker.team import compute_alone
from forebay_worker.zygote import Seat

log = structlog.get_logger(__name__)


class PrepareFailed(Exception):
    """A skeleton or tokenizer could not be built; the text is "Reason: text"."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How far one backbone is. ``error`` is "Reason: text" of the last try, empty when it is ready."""

    error: str = ""
    probe: Probe | None = None


class Preparations:
    """Lives on the loop. ``changed`` is called after what a report says has changed."""

    def __init__(self, seat: Seat, holdings: Holdings, executor: Executor, changed: Callable[[], None]) -> None:
        self._seat = seat
        self._holdings = holdings
        self._executor = executor
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._builder = ThreadPoolExecutor(1, "builder", compute_alone)  # one thread: the shelf is not shared
        self._building: dict[str, asyncio.Task[Parts]] = {}
        self._ready: OrderedDict[str, Parts] = OrderedDict()  # the least recently used first
        self._seen: dict[str, Preparation] = {}
        self._probing: set[str] = set()
        for parts in seat.shelf:  # inherited
            self._hand_over(parts)

    def seen(self) -> Mapping[str, Preparation]:
        return self._seen

    def parts(self, backbone: str) -> Parts | None:
        """Skeleton and tokenizer of ``backbone`` if they are ready."""
        if backbone in self._ready:
            self._ready.move_to_end(backbone)
        return self._ready.get(backbone)

    def begin(self, checkpoint: Checkpoint) -> asyncio.Task[Parts]:
        """Build what is not there yet, here and in the zygote. The task raises PrepareFailed; call again to retry."""
        backbone = checkpoint.model.backbone
        task = self._building.get(backbone)
        self.parts(backbone)  # used just now
        if task is None:
            task = self._loop.create_task(self._build(checkpoint), name=f"build {backbone}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits for it
            self._building[backbone] = task
        return task

    async def measure(self, checkpoint: Checkpoint) -> None:
        """Build, then measure a layer and the head on the device, once."""
        try:
            parts = await self.begin(checkpoint)
        except PrepareFailed:
            return  # reported
        if parts.backbone not in self._probing:
            self._probing.add(parts.backbone)
            self._executor.probe(parts.backbone, self._on_probe)

    def refuse(self, backbone: str, error: str) -> None:
        """It cannot even be opened: ``error`` is "Reason: text"."""
        self._seen[backbone] = Preparation(error=error)
        self._changed()

    def close(self) -> None:
        self._builder.shutdown(wait=False, cancel_futures=True)

    async def _build(self, checkpoint: Checkpoint) -> Parts:
        model = checkpoint.model
        try:
            parts = await self._loop.run_in_executor(self._builder, self._seat.shelf.build, checkpoint)
        except Exception as error:  # whatever a checkpoint's files make transformers raise
            log.exception("prepare.failed", backbone=model.backbone)
            del self._building[model.backbone]
            reason = error.reason if isinstance(error, CheckpointError) else "InvalidCheckpoint"
            self.refuse(model.backbone, f"{reason}: {error}")
            raise PrepareFailed(f"{reason}: {error}") from error
        self._seat.ask_to_prepare(model.backbone, model.uri, model.dtype)
        self._hand_over(parts)
        self._changed()
        return parts

    def _hand_over(self, parts: Parts) -> None:
        self._holdings.prepared(parts)
        self._ready[parts.backbone] = parts
        self._seen.setdefault(parts.backbone, Preparation())
        if self._seen[parts.backbone].error:
            self._seen[parts.backbone] = Preparation()
        self._make_room()

    def _make_room(self) -> None:
        """Let go of what was used least recently and holds nothing, runs nothing and is not being measured.

        It is reported as prepared all the same: it can be, and is built again in a moment, when it is needed."""
        used = {*self._holdings.seen(), *(pipeline.backbone for pipeline in self._executor.pipelines())}
        used |= {backbone for backbone in self._probing if self._seen[backbone].probe is None}
        idle = [backbone for backbone in tuple(self._ready)[:-1] if backbone not in used]
        for backbone in idle[: max(0, len(self._ready) - CAPACITY)]:
            log.info("prepare.forgotten", backbone=backbone)
            del self._ready[backbone]
            self._building.pop(backbone, None)
            self._holdings.unprepared(backbone)
            self._builder.submit(self._seat.shelf.remove, backbone)

    def _on_probe(self, probe: Probe) -> None:
        """From the device thread."""
        self._loop.call_soon_threadsafe(self._measured, probe)

    def _measured(self, probe: Probe) -> None:
        self._seen[probe.backbone] = Preparation(probe=probe)
        self._changed()
