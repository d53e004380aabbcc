"""What one field of a body may hold. A rule stands beside its field, in the ``metadata`` of the dataclass's field.

Every rule has ``take``: the value as the code wants it. It raises ValueError that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from forebay_api.frozen import Frozen, freeze

INT32 = 2**31 - 1
KEY_LENGTH = 512
"""Longest name or path by which one item of a list differs from the others."""

BYTES = r"^[1-9][0-9]{0,17}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$"
AMOUNT = r"^[0-9]{1,18}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|m|k|M|G|T)?$"


@dataclass(frozen=True, slots=True)
class Integer:
    minimum: int
    maximum: int = INT32

    def take(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum:
            return value
        bounds = f"of at least {self.minimum}" if self.maximum == INT32 else f"from {self.minimum} to {self.maximum}"
        raise ValueError(f"an integer {bounds}")


@dataclass(frozen=True, slots=True)
class Number:
    minimum: float
    maximum: float

    def take(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and self.minimum <= value <= self.maximum:
            return float(value)
        raise ValueError(f"a number from {self.minimum:g} to {self.maximum:g}")


@dataclass(frozen=True, slots=True)
class Boolean:
    def take(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")


@dataclass(frozen=True, slots=True)
class Text:
    """``expected`` says in words what ``pattern`` means; the pattern is one that RE2 and Python read alike."""

    pattern: str
    max_length: int
    expected: str

    def take(self, value: object) -> str:
        if isinstance(value, str) and len(value) <= self.max_length and re.fullmatch(self.pattern, value):
            return value
        raise ValueError(self.expected)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; ``words`` is an enum when the code wants members and a tuple when it wants plain strings."""

    words: type[StrEnum] | tuple[str, ...]

    def take(self, value: object) -> str:
        for word in self.words:
            if isinstance(value, str) and value == word:
                return word
        raise ValueError(f"one of {', '.join(self.words)}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount as Kubernetes writes it, kept as text. ``pattern`` is ``BYTES`` or, for processors too, ``AMOUNT``."""

    pattern: str

    def take(self, value: object) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18 else value
        if isinstance(text, str) and re.fullmatch(self.pattern, text):
            return text
        raise ValueError("bytes such as 512Mi or 100Gi" if self.pattern == BYTES else "an amount such as 500m or 2Gi")


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of names to values that obey ``item``."""

    item: Text | Quantity
    minimum: int = 0
    maximum: int = 16

    def take(self, value: object) -> Frozen[str]:
        if not isinstance(value, Mapping) or not self.minimum <= len(value) <= self.maximum:
            raise ValueError(f"a mapping of {self.minimum} to {self.maximum} names")
        try:
            return Frozen({str(name): self.item.take(held) for name, held in value.items()})
        except ValueError as wrong:
            raise ValueError(f"a mapping of names, each to {wrong}") from wrong


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of values that obey ``item``."""

    item: Text | Choice
    minimum: int = 0
    maximum: int = 16

    def take(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not self.minimum <= len(value) <= self.maximum:
            raise ValueError(f"a list of {self.minimum} to {self.maximum}")
        try:
            return tuple(self.item.take(held) for held in value)
        except ValueError as wrong:
            raise ValueError(f"a list, each {wrong}") from wrong


@dataclass(frozen=True, slots=True)
class Pieces:
    """A list of pieces of a pod that are kept as they are: the API server knows their fields when it makes the pod.
    ``keys`` are texts that each must have; by the first one they differ."""

    keys: tuple[str, ...] = ()
    maximum: int = 16

    def take(self, value: object) -> tuple[Frozen[object], ...]:
        if not isinstance(value, list | tuple) or len(value) > self.maximum:
            raise ValueError(f"a list of at most {self.maximum} mappings")
        taken = tuple(self._take_one(held) for held in value)
        if self.keys and len({piece[self.keys[0]] for piece in taken}) < len(taken):
            raise ValueError(f"a list in which each {self.keys[0]} is there once")
        return taken

    def _take_one(self, value: object) -> Frozen[object]:
        piece = freeze(value)
        if not isinstance(piece, Frozen):
            raise ValueError("a list of mappings")
        for key in self.keys:
            held = piece.get(key)
            if not isinstance(held, str) or not 1 <= len(held) <= KEY_LENGTH:
                raise ValueError(f"a list of mappings, each with a {key} of at most {KEY_LENGTH} characters")
        return piece


@dataclass(frozen=True, slots=True)
class Piece:
    """A single one of them."""

    def take(self, value: object) -> Frozen[object]:
        piece = freeze(value)
        if not isinstance(piece, Frozen):
            raise ValueError("a mapping")
        return piece


Rule = Integer | Number | Boolean | Text | Choice | Quantity | Named | Listed | Pieces | Piece


def integer(*, minimum: int, maximum: int = INT32) -> dict[str, Rule]:
    return {"rule": Integer(minimum, maximum)}


def number(*, minimum: float, maximum: float) -> dict[str, Rule]:
    return {"rule": Number(minimum, maximum)}


def boolean() -> dict[str, Rule]:
    return {"rule": Boolean()}


def text(*, pattern: str, max_length: int, expected: str) -> dict[str, Rule]:
    return {"rule": Text(pattern, max_length, expected)}


def choice(words: type[StrEnum] | tuple[str, ...]) -> dict[str, Rule]:
    return {"rule": Choice(words)}


def quantity() -> dict[str, Rule]:
    """Of bytes."""
    return {"rule": Quantity(BYTES)}


def named(item: Text | Quantity, *, minimum: int = 0, maximum: int = 16) -> dict[str, Rule]:
    return {"rule": Named(item, minimum, maximum)}


def listed(item: Text | Choice, *, minimum: int = 0, maximum: int = 16) -> dict[str, Rule]:
    return {"rule": Listed(item, minimum, maximum)}


def piece() -> dict[str, Rule]:
    return {"rule": Piece()}


def pieces(*keys: str, maximum: int = 16) -> dict[str, Rule]:
    return {"rule": Pieces(keys, maximum)}
