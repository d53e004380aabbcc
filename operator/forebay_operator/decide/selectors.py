"""Finds the series that a query in PromQL is computed from: what its age depends on.

Reads tokens, not grammar. What is no PromQL is Prometheus' to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)"""

TOKEN = re.compile(
    rf"""
      (?P<blank>  \s+ | \#[^\n]* )
    | (?P<string> {STRING} )
    | (?P<range>  \[[^]]*] )
    | (?P<labels> \{{ (?: [^{{}}"'`] | {STRING} )* \}} )
    | (?P<number> [0-9.][\w.]* )
    | (?P<name>   [a-zA-Z_:][\w:]* )
    | (?P<other>  . )
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)

OPERATORS = {"and", "or", "unless", "atan2", "bool", "offset", "inf", "nan"}
BEFORE_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
"""What a list of labels in parentheses may follow."""

CHOOSING = {"or", "unless"}
"""Operators whose one side may have nothing, as a matter of course."""

Token = tuple[str, str]


def selectors(query: str) -> tuple[str, ...]:
    """As they stand in it, each once, without ranges and offsets: who looks back still needs what is there now."""
    return tuple(dict.fromkeys(_found(_tokens(query))))


def chooses(query: str) -> bool:
    """Whether it says what to do where some of its series are not there."""
    return any(kind == "name" and text.lower() in CHOOSING for kind, text in _tokens(query))


def _tokens(query: str) -> list[Token]:
    return [(str(found.lastgroup), found[0]) for found in TOKEN.finditer(query) if found.lastgroup != "blank"]


def _found(tokens: list[Token]) -> Iterator[str]:
    followed = [*tokens[1:], ("end", "")]
    place = 0
    while place < len(tokens):
        (kind, text), (next_kind, following) = tokens[place], followed[place]
        place += 1
        if kind == "labels":
            yield text
        if kind != "name" or text.lower() in OPERATORS:
            continue
        if text.lower() in BEFORE_LABELS:
            place = _after_labels(tokens, place)
        elif next_kind == "labels":
            place += 1
            yield text + following
        elif following != "(" and following.lower() not in ("by", "without"):  # else it is a function or an aggregation
            yield text


def _after_labels(tokens: list[Token], place: int) -> int:
    """Where it goes on after a list of labels, if there is one at ``place``."""
    if place >= len(tokens) or tokens[place] != ("other", "("):
        return place
    while place < len(tokens) and tokens[place] != ("other", ")"):
        place += 1
    return place
