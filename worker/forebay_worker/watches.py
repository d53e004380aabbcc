"""Keeps what a worker holds in the node's cache while it is verified, and lets a backbone go that turns out damaged."""

from __future__ import annotations

import asyncio

import structlog

from forebay_worker.artifact.errors import CheckpointError
from forebay_worker.artifact.verify import Watch
from forebay_worker.checkpoints import Ref
from forebay_worker.holdings import Holdings
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.stage import Executor
from forebay_worker.turns import Turns

log = structlog.get_logger(__name__)


class Watches:
    """Lives on the loop. One watch for each held backbone whose files come from elsewhere."""

    def __init__(self, holdings: Holdings, executor: Executor, turns: Turns) -> None:
        self._holdings = holdings
        self._executor = executor
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, Watch] = {}

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

    def end(self, backbone: str) -> None:
        if watch := self._kept.pop(backbone, None):
            watch.close()

    def close(self) -> None:
        for backbone in tuple(self._kept):
            self.end(backbone)

    async def _condemn(self, ref: Ref, error: CheckpointError) -> None:
        """No answer may come from these bytes any more. The report says why, for the operator to look again."""
        log.error("backbone.damaged", backbone=ref.backbone, reason=error.message)
        self.end(ref.backbone)
        for pipeline in self._executor.pipelines():
            if pipeline.backbone == ref.backbone:
                self._executor.dissolve(pipeline.epoch, error.message)
        await self._holdings.drop(ref.backbone, ())
        self._holdings.refuse(ref, f"{error.reason}: {error.message}")
