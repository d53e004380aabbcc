"""Mappings and lists of a body that nobody can change any more, and the way back to plain JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeVar

V_co = TypeVar("V_co", covariant=True)

LARGEST = 256
"""Values in one piece that is kept as it is: more than any pod needs, less than aliases of YAML can blow up to."""


class Frozen(Mapping[str, V_co]):
    """A mapping that is hashable when its values are."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V_co] | None = None) -> None:
        self._items: Mapping[str, V_co] = dict(items or {})

    def __getitem__(self, key: str) -> V_co:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def freeze(value: object) -> object:
    """``value`` as JSON can say it, unchangeable through and through. Raises ValueError where it is larger or other."""
    return _freeze(value, iter(range(LARGEST)))


def _freeze(value: object, room: Iterator[int]) -> object:
    if next(room, None) is None:
        raise ValueError(f"at most {LARGEST} values altogether")
    if isinstance(value, Mapping):
        return Frozen({str(key): _freeze(inner, room) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_freeze(inner, room) for inner in value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError("text, numbers, lists and mappings only")


def thaw(value: object) -> object:
    """The inverse of ``freeze``: dicts, lists and plain words, as a JSON writer wants them."""
    if isinstance(value, Mapping):
        return {key: thaw(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [thaw(inner) for inner in value]
    return str(value) if isinstance(value, StrEnum) else value
