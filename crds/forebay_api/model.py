"""A backbone and its units: what is loaded, in pieces, and what a pipeline is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple


class UnitKind(StrEnum):
    EMBEDDING = "embedding"
    LAYER = "layer"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest loadable piece of a backbone.

    ``link_bytes`` cross the link; ``resident_bytes`` stay on the device (they differ when the dtype is converted).
    ``parameters`` are the weights that one token's step multiplies with (0 for an embedding: rows are looked up).
    """

    index: int
    kind: UnitKind
    link_bytes: int
    resident_bytes: int
    parameters: int


@dataclass(frozen=True)
class Model:
    """What a worker found in a checkpoint. ``backbone`` is the key that units, holdings, pipelines and KV go by;
    ``revision`` is the commit that was meant and ``digest`` that of its files, empty where the source has none.

    Without slots: sums over units are asked for in every pass, and worked out once."""

    backbone: str
    uri: str
    dtype: str
    architecture: str
    units: tuple[Unit, ...]
    tied: bool
    hidden_size: int
    layers: int
    vocab_size: int
    max_model_len: int
    kv_bytes_per_token_per_layer: int
    revision: str = ""
    digest: str = ""

    @cached_property
    def link_bytes(self) -> int:
        return sum(unit.link_bytes for unit in self.units)

    @cached_property
    def resident_bytes(self) -> int:
        return sum(unit.resident_bytes for unit in self.units)

    @cached_property
    def layers_before(self) -> tuple[int, ...]:
        """How many decoder layers come before each unit, and before the end."""
        kinds = (unit.kind is UnitKind.LAYER for unit in self.units)
        return tuple(accumulate(kinds, initial=0))


class Epoch(NamedTuple):
    """Names a pipeline for ever and only grows: (leader term, counter within the term). Made and looked up often."""

    term: int
    counter: int

    def __str__(self) -> str:
        return f"{self.term}.{self.counter}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Units ``first`` to ``last``, both included, on one worker."""

    worker: str
    first: int
    last: int

    @property
    def units(self) -> range:
        return range(self.first, self.last + 1)
