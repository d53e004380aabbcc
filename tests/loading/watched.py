"""A loader and what it has said so far."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from device import of_one_thread
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.load.link import Link
from forebay_worker.load.stream import Landed, Loader

DEADLINE = 20.0


class Watched:
    """A loader and what it has said so far."""

    def __init__(self, memory_bytes: int = 1 << 30, link: Link | None = None) -> None:
        self.device = of_one_thread(memory_bytes)
        self.landed: list[Landed] = []
        self.failed: list[tuple[str, Exception]] = []
        self._said = threading.Condition()
        self.on_landed: Callable[[Landed], None] = lambda landed: None
        self.loader = Loader(self.device, link or Link(None, None), self._on_landed, self._on_failed)

    def _on_landed(self, landed: Landed) -> None:
        self.on_landed(landed)
        with self._said:
            self.landed.append(landed)
            self._said.notify_all()

    def _on_failed(self, backbone: str, error: Exception) -> None:
        with self._said:
            self.failed.append((backbone, error))
            self._said.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._said:
            assert self._said.wait_for(condition, DEADLINE), (self.landed, self.failed)

    def load(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """Hold all of it and return every tensor that landed, on the host."""
        order = range(len(checkpoint.tensors))
        self.loader.hold(checkpoint, order, 0)
        self.until(lambda: len(self.landed) >= len(order))
        found: dict[str, torch.Tensor] = {}
        for landed in self.landed:
            if landed.event is not None:
                landed.event.synchronize()
            found |= {name: tensor.cpu() for name, tensor in landed.tensors.items()}
        return found

    def rows(self, checkpoint: Checkpoint, table: str, ids: list[int]) -> torch.Tensor:
        found: list[torch.Tensor] = []
        done = threading.Event()
        self.loader.rows(checkpoint, table, ids, lambda rows: (found.append(rows), done.set()))  # type: ignore[func-returns-value]
        assert done.wait(DEADLINE)
        return found[0].cpu()

    @property
    def units(self) -> list[int]:
        return [landed.unit for landed in self.landed]
