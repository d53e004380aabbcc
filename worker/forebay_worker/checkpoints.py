"""Opening checkpoints off the loop: headers are small, but a disk may hang."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from forebay_wire.v1 import model_pb2
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint


@dataclass(frozen=True, slots=True)
class Ref:
    """Names a checkpoint. ``backbone`` is what it has to turn out to be; empty = whatever it is."""

    backbone: str
    uri: str
    dtype: str

    @classmethod
    def of(cls, message: model_pb2.ModelRef) -> Ref:
        return cls(message.backbone, message.uri, message.dtype or "auto")


class Checkpoints:
    """Opens checkpoints in threads of its own: those that are inspected apart from those that are to be loaded."""

    def __init__(self) -> None:
        self._inspecting = ThreadPoolExecutor(1, "inspect")
        self._loading = ThreadPoolExecutor(2, "open")

    async def inspect(self, uri: str, dtype: str) -> Checkpoint:
        """Raises CheckpointError."""
        return await asyncio.get_running_loop().run_in_executor(self._inspecting, open_checkpoint, uri, dtype)

    async def open(self, ref: Ref) -> Checkpoint:
        """Raises CheckpointError, also when the files are not those that ``ref.backbone`` was made of."""
        found = await asyncio.get_running_loop().run_in_executor(self._loading, open_checkpoint, ref.uri, ref.dtype)
        if ref.backbone not in ("", found.model.backbone):
            raise CheckpointError("ChecksumMismatch", f"{ref.uri} has changed since it was inspected")
        return found

    def close(self) -> None:
        for pool in (self._inspecting, self._loading):
            pool.shutdown(wait=False, cancel_futures=True)
