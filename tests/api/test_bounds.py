"""Each bound of the schemas, whatever its kind, has a resource in `wrong.yaml` that breaks it and nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.wrong import WRONG
from forebay_api import names

ROOT = Path(__file__).parents[2]
GROUPS = {"functions": names.PLURAL, "pools": names.POOL_PLURAL}
Schema = dict[str, Any]
Where = tuple[str, ...]
"""Names of fields from ``spec`` on; ``*`` stands for every item of a list and every value of a map."""

BREAKS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, limit: _number(value) and value < limit,
    "maximum": lambda value, limit: _number(value) and value > limit,
    "minLength": lambda value, limit: isinstance(value, str) and len(value) < limit,
    "maxLength": lambda value, limit: isinstance(value, str) and len(value) > limit,
    "pattern": lambda value, limit: isinstance(value, str) and not re.search(limit, value),
    "minItems": lambda value, limit: isinstance(value, list) and len(value) < limit,
    "maxItems": lambda value, limit: isinstance(value, list) and len(value) > limit,
    "minProperties": lambda value, limit: isinstance(value, dict) and len(value) < limit,
    "maxProperties": lambda value, limit: isinstance(value, dict) and len(value) > limit,
    "enum": lambda value, limit: isinstance(value, str) and value not in limit,
}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def nodes(schema: Schema, where: Where) -> Iterator[tuple[Where, Schema]]:
    yield where, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, (*where, name))
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from nodes(inner, (*where, "*"))


def values(given: Any, where: Where) -> Iterator[Any]:
    if not where:
        yield given
    elif where[0] == "*" and isinstance(given, list | dict):
        for inner in given.values() if isinstance(given, dict) else given:
            yield from values(inner, where[1:])
    elif isinstance(given, dict) and where[0] in given:
        yield from values(given[where[0]], where[1:])


def broken(schema: Schema, value: Any) -> set[str]:
    return {bound for bound, breaks in BREAKS.items() if bound in schema and breaks(value, schema[bound])}


def spec_of(plural: str) -> Schema:
    crd = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
    spec: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


IMPLIED = {("spec.model.digest", "maxLength")}
"""Bounds that no value breaks without breaking another one of the same field."""

BOUNDS = [
    pytest.param(group, where, schema, bound, id=f"{group}-{'.'.join(where)}-{bound}")
    for group, plural in GROUPS.items()
    for where, schema in nodes(spec_of(plural), ("spec",))
    for bound in BREAKS
    if bound in schema and (".".join(where), bound) not in IMPLIED
]


@pytest.mark.parametrize(("group", "where", "schema", "bound"), BOUNDS)
def test_somebody_breaks_it_alone(group: str, where: Where, schema: Schema, bound: str) -> None:
    field = ".".join(where).partition(".*")[0]
    found = [
        case
        for case in WRONG[group]
        if field.startswith(case["field"]) and {bound} in [broken(schema, value) for value in values(case, where)]
    ]
    assert found, f"wrong.yaml needs one with {bound} {schema[bound]} of {'.'.join(where)} broken"


def test_all_kinds_of_bounds_are_known() -> None:
    words = {word for plural in GROUPS.values() for _, schema in nodes(spec_of(plural), ()) for word in schema}
    assert {word for word in words if re.match("min|max|exclusive|multiple|unique|pattern|enum", word)} == set(BREAKS)
