"""The tokens that penalties look at, for one answer: gathered once, and kept up with every token that is added.

May not live here: what a penalty is (``sample``).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

LEAST = 64


class Column:
    """Whole numbers that more are added to and single ones change, as a tensor where they are wanted."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._tensor = torch.empty(0, dtype=torch.int64)
        self._stale: set[int] = set()  # places that the tensor has not, or has otherwise

    def put(self, place: int, value: int) -> None:
        """At most one place behind the last."""
        self.values[place : place + 1] = [value]
        self._stale.add(place)

    def on(self, device: torch.device) -> torch.Tensor:
        if self._tensor.device != device or len(self._tensor) < len(self.values):
            room = [0] * max(LEAST, len(self.values))  # doubled: copied seldom
            self._tensor = torch.tensor(self.values + room, dtype=torch.int64, device=device)
        elif self._stale:
            places = list(self._stale)
            new = torch.tensor([places, [self.values[place] for place in places]], dtype=torch.int64).to(device)
            self._tensor[new[0]] = new[1]
        self._stale.clear()
        return self._tensor[: len(self.values)]


class Said:
    """``seen``: each token of prompt and answer once. ``own``: each of the answer once, and how often in ``counts``."""

    def __init__(self, prompt: Iterable[int], answer: Iterable[int] = ()) -> None:
        self.seen, self.own, self.counts = Column(), Column(), Column()
        self._seen: set[int] = set()
        self._places: dict[int, int] = {}
        for token in prompt:
            self._see(token)
        for token in answer:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token of the answer."""
        self._see(token)
        place = self._places.setdefault(token, len(self._places))
        before = self.counts.values[place] if place < len(self.counts.values) else 0
        self.own.put(place, token)
        self.counts.put(place, before + 1)

    def _see(self, token: int) -> None:
        if token not in self._seen:
            self.seen.put(len(self._seen), token)
            self._seen.add(token)
