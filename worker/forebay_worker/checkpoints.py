"""Opening checkpoints off the loop: headers are small, but a disk or a source may hang."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from forebay_wire.v1 import model_pb2
from forebay_worker.artifact.access import Access, Secret
from forebay_worker.artifact.errors import CHECKSUM_MISMATCH
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint

INSPECTORS = 4
"""Sources asked at once; one that does not answer holds up three others at most as long as it is given."""

NOTHING = Access()


@dataclass(frozen=True, slots=True)
class Ref:
    """Names a checkpoint. ``backbone`` is what it has to turn out to be; empty = whatever it is."""

    backbone: str
    uri: str
    dtype: str
    access: Access = NOTHING

    @property
    def remote(self) -> bool:
        return not self.uri.startswith("file://")

    @classmethod
    def of(cls, message: model_pb2.ModelRef) -> Ref:
        # A revision comes from an inspection, which these credentials have passed.
        access = Access(message.revision, message.digest, Secret(message.credentials), pinned=bool(message.revision))
        return cls(message.backbone, message.uri, message.dtype or "auto", access)


class Checkpoints:
    """Opens checkpoints in threads of its own: those that are inspected apart from those that are to be loaded."""

    def __init__(self) -> None:
        self._inspecting = ThreadPoolExecutor(INSPECTORS, "inspect")
        self._loading = ThreadPoolExecutor(2, "open")

    async def inspect(self, uri: str, dtype: str, access: Access) -> Checkpoint:
        """Raises CheckpointError."""
        return await asyncio.get_running_loop().run_in_executor(self._inspecting, open_checkpoint, uri, dtype, access)

    async def open(self, ref: Ref) -> Checkpoint:
        """Raises CheckpointError, also when the files are not those that ``ref.backbone`` was made of."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._loading, open_checkpoint, ref.uri, ref.dtype, ref.access
        )
        if ref.backbone not in ("", found.model.backbone):
            raise CheckpointError(CHECKSUM_MISMATCH, f"{ref.uri} has changed since it was inspected")
        return found

    def close(self) -> None:
        for pool in (self._inspecting, self._loading):
            pool.shutdown(wait=False, cancel_futures=True)
