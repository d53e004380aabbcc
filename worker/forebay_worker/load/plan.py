"""Which bytes next: an order per backbone, urgent units before anybody's background, and how a unit is cut into pieces.

Pure: no thread, no clock, no file. The loader asks ``next`` before every piece, so a new order works at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from forebay_worker.load.tensors import ITEM_BYTES, TensorSlice


class Phase(StrEnum):
    QUEUED = "queued"
    LOADING = "loading"
    RESIDENT = "resident"


class Pick(NamedTuple):
    backbone: str
    unit: int


@dataclass(frozen=True, slots=True)
class Part:
    """``nbytes`` of a unit's tensor number ``tensor``, from its byte ``start``: whole elements."""

    tensor: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One read: ``nbytes`` from ``offset`` of ``file``, which are its parts one after the other."""

    file: Path
    offset: int
    nbytes: int
    parts: tuple[Part, ...]


def pieces(tensors: Sequence[TensorSlice], limit: float) -> Iterator[Piece]:
    """Cut a unit into reads of at most ``limit`` bytes (at least one element). Adjacent tensors share a read.

    file    │ norm │ q_proj            │ k_proj │  another layer  │ v_proj │
    pieces  └──── 0 ────┴──── 1 ────┴── 2 ──────┘                 └── 3 ───┘
    """
    parts: list[Part] = []
    file, begin, end = Path(), 0, 0
    for number, tensor in enumerate(tensors):
        item = ITEM_BYTES[tensor.dtype]
        start = 0
        while start < tensor.nbytes:
            at = tensor.offset + start
            if parts and (tensor.file != file or at != end or end - begin + item > limit):
                yield Piece(file, begin, end - begin, tuple(parts))
                parts = []
            if not parts:
                file, begin, end = tensor.file, at, at
            room = limit - (end - begin)
            rest = tensor.nbytes - start
            size = rest if room >= rest else max(item, math.floor(room) // item * item)
            parts.append(Part(number, start, size))
            start, end = start + size, at + size
    if parts:
        yield Piece(file, begin, end - begin, tuple(parts))


@dataclass
class _Load:
    turn: int
    order: tuple[int, ...] = ()
    urgent: int = 0
    begun: list[int] = field(default_factory=list)
    landed: set[int] = field(default_factory=set)

    def todo(self, units: Iterable[int]) -> Iterator[int]:
        return (unit for unit in units if unit not in self.landed and unit not in self.begun)

    @property
    def finished(self) -> bool:
        return not self.begun and all(unit in self.landed for unit in self.order)


class Queue:
    """Orders of several backbones. Backbones of one urgency take turns in the order in which they were held."""

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}
        self._turns = 0

    def hold(self, backbone: str, order: Sequence[int], urgent: int) -> None:
        """Replace the order; its first ``urgent`` units go before background. Units begun are finished all the same."""
        load = self._loads.get(backbone)
        if load is None or load.finished:
            self._turns += 1
            landed = load.landed if load else set()
            load = self._loads[backbone] = _Load(self._turns, landed=landed)
        load.order, load.urgent = tuple(dict.fromkeys(order)), urgent

    def next(self, waiting: Collection[str] = ()) -> Pick | None:
        """Urgent before background; within that, what is begun is finished first. None = nothing to do but for the
        backbones that are ``waiting``."""
        able = ((backbone, load) for backbone, load in self._loads.items() if backbone not in waiting)
        loads = sorted(able, key=lambda item: item[1].turn)
        for backbone, load in loads:
            for unit in load.begun:
                if unit in load.order[: load.urgent]:
                    return Pick(backbone, unit)
        for backbone, load in loads:
            for unit in load.todo(load.order[: load.urgent]):
                return Pick(backbone, unit)
        for backbone, load in loads:
            for unit in load.begun:
                return Pick(backbone, unit)
        for backbone, load in loads:
            for unit in load.todo(load.order[load.urgent :]):
                return Pick(backbone, unit)
        return None

    def begin(self, pick: Pick) -> None:
        self._loads[pick.backbone].begun.append(pick.unit)

    def land(self, pick: Pick) -> None:
        load = self._loads[pick.backbone]
        load.begun.remove(pick.unit)
        load.landed.add(pick.unit)

    def forget(self, backbone: str, units: Iterable[int] | None) -> frozenset[int]:
        """Neither load these units nor count them as landed (None = all). Returns those that were begun."""
        load = self._loads.get(backbone)
        if load is None:
            return frozenset()
        gone = set(units) if units is not None else {*load.order, *load.begun, *load.landed}
        begun = frozenset(gone.intersection(load.begun))
        load.urgent = sum(unit not in gone for unit in load.order[: load.urgent])
        load.order = tuple(unit for unit in load.order if unit not in gone)
        load.begun = [unit for unit in load.begun if unit not in gone]
        load.landed -= gone
        if not (load.order or load.begun or load.landed):
            del self._loads[backbone]
        return begun

    def stop(self, backbone: str) -> frozenset[int]:
        """Load nothing more of this backbone until it is held again; what has landed stays. Returns what was begun."""
        load = self._loads.get(backbone)
        return self.forget(backbone, {*load.order, *load.begun} - load.landed) if load else frozenset()

    def phases(self, backbone: str) -> dict[int, Phase]:
        """Every unit that is queued, loading or resident: in the order told, then the others by number."""
        load = self._loads.get(backbone)
        if load is None:
            return {}
        units = dict.fromkeys((*load.order, *sorted(load.begun), *sorted(load.landed)))
        return {unit: self._phase(load, unit) for unit in units}

    @staticmethod
    def _phase(load: _Load, unit: int) -> Phase:
        if unit in load.landed:
            return Phase.RESIDENT
        return Phase.LOADING if unit in load.begun else Phase.QUEUED

    @property
    def backbones(self) -> tuple[str, ...]:
        return tuple(self._loads)
