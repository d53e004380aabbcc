"""The schema that the API server enforces and the rules that we enforce are the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay_api import names
from forebay_api.conditions import State, Status
from forebay_api.fields import INT32, Boolean, Choice, Integer, Number, Rule, Text, key_of
from forebay_api.function import FunctionSpec

ROOT = Path(__file__).parents[2]
Schema = dict[str, Any]

CRD: Schema = yaml.safe_load((ROOT / "crds" / "llmfunctions.yaml").read_text())
VERSION: Schema = CRD["spec"]["versions"][0]
SCHEMA: Schema = VERSION["schema"]["openAPIV3Schema"]


def of_rule(rule: Rule) -> Schema:
    match rule:
        case Integer(minimum, maximum):
            ceiling = {} if maximum == INT32 else {"maximum": maximum}
            return {"type": "integer", "format": "int32", "minimum": minimum} | ceiling
        case Number(minimum, maximum):
            return {"type": "number", "minimum": minimum, "maximum": maximum}
        case Boolean():
            return {"type": "boolean"}
        case Text(pattern, max_length):
            return {"type": "string", "pattern": pattern, "maxLength": max_length}
        case Choice(words):
            return {"type": "string", "enum": [str(word) for word in words]}


def of_section(kind: type[Any]) -> Schema:
    properties: Schema = {}
    required = []
    for field in fields(kind):
        section = field.metadata.get("section")
        schema = of_section(section) if section else of_rule(field.metadata["rule"])
        if field.default is MISSING:
            required.append(key_of(field.name))
        elif section:
            schema["default"] = {}
        elif field.default is not None:
            schema["default"] = str(field.default) if isinstance(field.default, StrEnum) else field.default
        properties[key_of(field.name)] = schema
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def plain(schema: Schema) -> Schema:
    """Without what only people and the API server's own format care about."""
    kept = {key: value for key, value in schema.items() if key not in ("description", "nullable")}
    if "properties" in kept:
        kept["properties"] = {name: plain(inner) for name, inner in kept["properties"].items()}
    return kept


def everywhere(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from everywhere(inner, f"{path}.{name}")
    if "items" in schema:
        yield from everywhere(schema["items"], f"{path}[]")


def test_the_spec_has_exactly_our_fields_types_bounds_and_defaults() -> None:
    assert plain(SCHEMA["properties"]["spec"]) == of_section(FunctionSpec)


def test_only_replicas_may_be_null() -> None:
    assert [path for path, schema in everywhere(SCHEMA) if schema.get("nullable")] == [".spec.replicas"]


@pytest.mark.parametrize(("path", "schema"), list(everywhere(SCHEMA)))
def test_every_field_explains_itself(path: str, schema: Schema) -> None:
    assert schema.get("description", "").endswith("."), path


def test_names_are_those_of_the_code() -> None:
    assert CRD["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"
    assert CRD["spec"]["group"] == names.GROUP
    assert VERSION["name"] == names.VERSION
    assert CRD["spec"]["names"] == {
        "kind": names.KIND,
        "listKind": f"{names.KIND}List",
        "plural": names.PLURAL,
        "singular": names.SINGULAR,
        "shortNames": [names.SHORT_NAME],
        "categories": ["all", names.CATEGORY],
    }


def test_people_see_the_seven_columns() -> None:
    columns = [column["name"].upper() for column in VERSION["additionalPrinterColumns"]]
    assert columns == ["URL", "MODEL", "STATE", "READY", "DESIRED", "REASON", "AGE"]


def test_the_status_is_a_subresource_with_our_words() -> None:
    assert VERSION["subresources"] == {"status": {}}
    status = SCHEMA["properties"]["status"]["properties"]
    assert status["state"]["enum"] == [str(state) for state in State]
    assert status["conditions"]["items"]["properties"]["status"]["enum"] == [str(word) for word in Status]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
