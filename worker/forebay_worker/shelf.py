"""Skeletons and tokenizers that are ready before anybody asks.

The zygote fills its shelf single-threaded; a worker forked from it finds everything there and adds what it builds
itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from forebay_worker.engine.text import Text
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.model.skeleton import Skeleton

CAPACITY = 8
"""Models kept; a skeleton without weights and a tokenizer cost tens of MB together."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model needs besides its bytes."""

    checkpoint: Checkpoint
    skeleton: Skeleton
    text: Text

    @property
    def backbone(self) -> str:
        return self.checkpoint.model.backbone


class Shelf:
    """Parts by backbone; the least recently taken one goes when there is no room."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._parts: OrderedDict[str, Parts] = OrderedDict()

    def __contains__(self, backbone: str) -> bool:
        return backbone in self._parts

    def __iter__(self) -> Iterator[Parts]:
        return iter(tuple(self._parts.values()))

    def take(self, backbone: str) -> Parts | None:
        if backbone in self._parts:
            self._parts.move_to_end(backbone)
        return self._parts.get(backbone)

    def remove(self, backbone: str) -> None:
        """Passes over one that is not here."""
        self._parts.pop(backbone, None)

    def build(self, checkpoint: Checkpoint) -> Parts:
        """The parts of ``checkpoint``, built unless they are here. Takes ~0.2 s; raises what building raises."""
        if known := self.take(checkpoint.model.backbone):
            return known
        parts = Parts(checkpoint, Skeleton.build(checkpoint), Text(checkpoint.folder))
        self._parts[parts.backbone] = parts
        while len(self._parts) > self._capacity:
            self._parts.popitem(last=False)
        return parts
