"""Looks after held backbones whose files come from elsewhere: keeps them in the node's cache, lets those go that turn
out damaged, and goes on with those whose source was away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import structlog

from forebay_worker.artifact.cache import DAMAGE_SECONDS
from forebay_worker.artifact.errors import (
    CACHE_FULL,
    CHECKSUM_MISMATCH,
    SOURCE_UNAVAILABLE,
    UNAUTHORIZED,
    CheckpointError,
)
from forebay_worker.artifact.verify import Watch
from forebay_worker.checkpoints import Ref
from forebay_worker.holdings import Holdings
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.stage import Executor
from forebay_worker.turns import Turns

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 5.0
"""Between tries to go on with what stopped for a reason that passes. The operator sees the error meanwhile, and does
without this worker."""
FORGET_SECONDS = {f"{UNAUTHORIZED}:": 30.0, f"{CHECKSUM_MISMATCH}:": DAMAGE_SECONDS}
"""After which an error is forgotten that a person may have put right at the source: the operator tells no worker to
hold what it reports to have failed with."""
Again = Callable[[], Coroutine[None, None, None]]
PASSING = (f"{SOURCE_UNAVAILABLE}:", f"{CACHE_FULL}:")


class Watches:
    """Lives on the loop. One watch for each held backbone whose files come from elsewhere."""

    def __init__(self, holdings: Holdings, executor: Executor, turns: Turns) -> None:
        self._holdings = holdings
        self._executor = executor
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, Watch] = {}
        self._again: dict[str, Again] = {}
        self._refused: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, ref: Ref, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError when the files are known to be damaged."""
        backbone = checkpoint.model.backbone
        if checkpoint.artifact is None or backbone in self._kept:
            return
        slices = [tensor for unit in checkpoint.tensors for tensor in unit]
        spans = [(tensor.file, tensor.offset, tensor.offset + tensor.nbytes) for tensor in slices]

        def damaged(error: CheckpointError) -> None:
            self._loop.call_soon_threadsafe(self._turns.start, "condemn", self._condemn(ref, error), backbone)

        self._kept[backbone] = Watch(checkpoint.artifact, spans, damaged)

    def retry(self, backbone: str, again: Again) -> None:
        """``again`` is done now and then, while holding ``backbone`` has failed for a reason that passes."""
        self._again[backbone] = again
        if self._timer is None:
            self._timer = self._loop.call_later(AGAIN_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        held = self._holdings.seen()
        self._again = {backbone: again for backbone, again in self._again.items() if backbone in held}
        for backbone, again in tuple(self._again.items()):
            if held[backbone].error.startswith(PASSING):
                log.info("hold.again", backbone=backbone)
                self._turns.start("hold", self._go_on(backbone, again), backbone)
            self._forget(backbone, held[backbone].error)
        if self._again:
            self._timer = self._loop.call_later(AGAIN_SECONDS, self._look)

    def _forget(self, backbone: str, error: str) -> None:
        now = self._loop.time()
        seconds = next((seconds for reason, seconds in FORGET_SECONDS.items() if error.startswith(reason)), None)
        if seconds is None:
            self._refused.pop(backbone, None)
        elif self._refused.setdefault(backbone, now) + seconds <= now:
            self._turns.start("forget", self._drop(backbone, error), backbone)

    async def _go_on(self, backbone: str, again: Again) -> None:
        """Unless its turn came after that of a command, which says something newer."""
        held = self._holdings.seen().get(backbone)
        if held and held.error.startswith(PASSING) and self._again.get(backbone) is again:
            await again()

    async def _drop(self, backbone: str, error: str) -> None:
        """Unless, likewise, it is held anew."""
        held = self._holdings.seen().get(backbone)
        if held is None or held.error != error:
            return
        await self._holdings.drop(backbone, ())
        if self._holdings.checkpoint(backbone) is None:
            self.end(backbone)

    def end(self, backbone: str) -> None:
        self._again.pop(backbone, None)
        self._refused.pop(backbone, None)
        self._let_go(backbone)

    def _let_go(self, backbone: str) -> None:
        if watch := self._kept.pop(backbone, None):
            watch.close()

    def close(self) -> None:
        for backbone in tuple(self._kept):
            self._let_go(backbone)
        if self._timer is not None:
            self._timer.cancel()

    async def _condemn(self, ref: Ref, error: CheckpointError) -> None:
        """No answer may come from these bytes any more. The report says why, for the operator to look again."""
        log.error("backbone.damaged", backbone=ref.backbone, reason=error.message)
        self._let_go(ref.backbone)
        self._executor.dissolve_all(ref.backbone, error.message)
        await self._holdings.drop(ref.backbone, ())
        self._holdings.refuse(ref, f"{error.reason}: {error.message}")
