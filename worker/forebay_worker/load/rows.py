"""Rows of a table on their way to the device: first their bytes, which take a while where they come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from forebay_worker.device import Device
from forebay_worker.load.checkpoint import Checkpoint, TensorSlice
from forebay_worker.load.copy import read_rows
from forebay_worker.load.source import Source

Done = Callable[[torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Rows:
    """``host`` or ``error`` is there when the bytes were asked for."""

    checkpoint: Checkpoint
    table: TensorSlice
    ids: tuple[int, ...]
    done: Done
    host: torch.Tensor | None = None
    error: Exception | None = None

    @property
    def nbytes(self) -> int:
        """A row that is wanted twice is read once."""
        return len(set(self.ids)) * self.table.nbytes // self.table.shape[0]

    @property
    def asked(self) -> bool:
        return self.host is not None or self.error is not None

    def read(self) -> Rows:
        """With their bytes, or what went wrong. In any thread."""
        source = Source(self.checkpoint.stamps, self.checkpoint.artifact)
        try:
            return replace(self, host=read_rows(source, self.table, self.ids))
        except Exception as error:  # noqa: BLE001, whatever files raise; the loader says so
            return replace(self, error=error)
        finally:
            source.close()

    def placed(self, device: Device) -> torch.Tensor:
        """After ``read``: [len(ids), width] in the model's dtype. Raises what reading raised."""
        if self.host is None:
            raise self.error or ValueError("rows were not read")
        stored, wanted = (getattr(torch, dtype) for dtype in (self.table.dtype, self.checkpoint.model.dtype))
        return self.host.view(stored).to(device=device.torch_device, dtype=wanted)

    def anew(self) -> Rows:
        return replace(self, host=None, error=None)
