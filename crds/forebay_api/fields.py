"""Reading a body into frozen dataclasses: what a field may hold stands beside the field; every problem is collected.

A dataclass field carries its rule in ``metadata`` (``integer(minimum=0)``, see ``rules``) or says that it is a section;
its key in the body is its name in camelCase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from forebay_api.frozen import thaw
from forebay_api.rules import Rule

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

SHOWN_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a body: the field's path, the value found there (None: nothing), and what would be right."""

    field: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.field}: got {shown(self.value)}, expected {self.expected}"


def shown(value: object) -> str:
    """A value as a person would write it in YAML, cut to one short line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    # What YAML aliases or a thousand digits can blow up is named, not printed.
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) > 10**SHOWN_LENGTH:
        return f"an integer of more than {SHOWN_LENGTH} digits"
    text = repr(value)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


def key_of(name: str) -> str:
    """``min_replicas`` ▸ ``minReplicas``."""
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))


def read(kind: type[T], body: object, path: str, problems: list[Problem]) -> T:
    """``body`` as a ``kind``. Problems are appended; where there is one, the value returned holds a default or None."""
    within = problems
    if isinstance(body, Mapping):
        refuse_unknown(body, (key_of(field.name) for field in fields(kind)), path, problems)
    else:
        problems.append(Problem(path, body, "a mapping"))
        body, within = {}, []  # its fields are not missing one by one
    values = {}
    for field in fields(kind):
        key = key_of(field.name)
        values[field.name] = _read_field(field, body.get(key), f"{path}.{key}", within)
    return kind(**values)


def refuse_unknown(body: Mapping[Any, object], known: Iterable[str], path: str, problems: list[Problem]) -> None:
    names = tuple(known)
    for key, value in body.items():
        if key in names:
            continue
        near = get_close_matches(str(key), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"
        problems.append(Problem(f"{path}.{key}".lstrip("."), value, f"no field of this name; {hint}"))


def check(rule: Rule, value: object, path: str, problems: list[Problem]) -> object:
    """The value as the code wants it, or None with a problem."""
    try:
        return rule.take(value)
    except ValueError as wrong:
        problems.append(Problem(path, value, f"{wrong} (it is required)" if value is None else str(wrong)))
        return None


def write(value: DataclassInstance) -> dict[str, object]:
    """The inverse of ``read``: every field but those that are None or empty, under its key."""
    body: dict[str, object] = {}
    for field in fields(value):
        held = getattr(value, field.name)
        if is_dataclass(held) and not isinstance(held, type):
            body[key_of(field.name)] = write(held)
        elif held is not None and not (isinstance(held, tuple | Mapping) and not held):
            body[key_of(field.name)] = thaw(held)
    return body


def _read_field(field: Field[Any], value: object, path: str, problems: list[Problem]) -> object:
    optional = field.default is not MISSING
    if value is None and optional:
        return field.default
    if section := field.metadata.get("section"):
        return read(section, {} if value is None else value, path, problems)
    taken = check(field.metadata["rule"], value, path, problems)
    return field.default if taken is None and optional else taken
