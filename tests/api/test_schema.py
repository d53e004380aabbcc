"""The schemas that the API server enforces and the rules that we enforce are the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay_api import names
from forebay_api.conditions import ConditionType, Reason, State, Status
from forebay_api.fields import key_of
from forebay_api.frozen import thaw
from forebay_api.function import FunctionSpec
from forebay_api.pool import CPU_REQUEST, MEMORY_REQUEST, PoolSpec
from forebay_api.rules import (
    INT32,
    KEY_LENGTH,
    Boolean,
    Choice,
    Integer,
    Listed,
    Named,
    Number,
    Piece,
    Pieces,
    Quantity,
    Rule,
    Text,
)
from forebay_operator.cluster import body, past, pool_status

ROOT = Path(__file__).parents[2]
# What is said beside the types, and what only people and the API server's own format care about.
BESIDE = ("description", "x-kubernetes-validations")
Schema = dict[str, Any]

CRDS: dict[str, Schema] = {
    kind: yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
    for kind, plural in ((names.KIND, names.PLURAL), (names.POOL_KIND, names.POOL_PLURAL))
}
VERSIONS: dict[str, Schema] = {kind: crd["spec"]["versions"][0] for kind, crd in CRDS.items()}
SCHEMAS: dict[str, Schema] = {kind: version["schema"]["openAPIV3Schema"] for kind, version in VERSIONS.items()}
PIECE: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SPECS = {names.KIND: FunctionSpec, names.POOL_KIND: PoolSpec}


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
        case Quantity(pattern):
            either: Schema = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
            return {**either, "x-kubernetes-int-or-string": True, "pattern": pattern}
        case Named(item, minimum, maximum):
            bounds = {"minProperties": minimum} if minimum else {}
            return {"type": "object", "additionalProperties": of_rule(item), "maxProperties": maximum} | bounds
        case Listed(item, minimum, maximum):
            bounds = {"minItems": minimum} if minimum else {}
            return of_list("atomic", of_rule(item), maximum) | bounds
        case Pieces(keys, maximum):
            return of_pieces(keys, maximum)
        case Piece():
            return dict(PIECE)


def of_list(kind: str, item: Schema, maximum: int) -> Schema:
    return {"type": "array", "x-kubernetes-list-type": kind, "items": item, "maxItems": maximum}


def of_pieces(keys: tuple[str, ...], maximum: int) -> Schema:
    piece = dict(PIECE)
    if not keys:
        return of_list("atomic", piece, maximum)
    key = {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH}
    piece |= {"required": list(keys), "properties": dict.fromkeys(keys, key)}
    return of_list("map", piece, maximum) | {"x-kubernetes-list-map-keys": [keys[0]]}


def of_section(kind: type[Any]) -> Schema:
    properties: Schema = {}
    required = []
    for field in fields(kind):
        section = field.metadata.get("section")
        schema = of_section(section) if section else of_rule(field.metadata["rule"])
        if field.default is MISSING:
            required.append(key_of(field.name))
        elif section and field.default is not None:
            schema["default"] = {}
        elif field.default is not None and thaw(field.default) not in ([], {}):  # an empty one is an absent one
            schema["default"] = thaw(field.default)
        properties[key_of(field.name)] = schema
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def plain(schema: Schema) -> Schema:
    kept = {key: value for key, value in schema.items() if key not in BESIDE}
    if "properties" in kept:
        kept["properties"] = {name: plain(inner) for name, inner in kept["properties"].items()}
    return kept | {key: plain(kept[key]) for key in ("items", "additionalProperties") if key in kept}


def everywhere(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from everywhere(inner, f"{path}.{name}")
    for key, sign in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from everywhere(schema[key], path + sign)


EVERYWHERE = [
    pytest.param(path, schema, id=f"{kind}{path}") for kind in SCHEMAS for path, schema in everywhere(SCHEMAS[kind])
]


@pytest.mark.parametrize("kind", SPECS)
def test_the_spec_has_exactly_our_fields_types_bounds_and_defaults(kind: str) -> None:
    assert plain(SCHEMAS[kind]["properties"]["spec"]) == of_section(SPECS[kind])


def test_no_field_keeps_a_null() -> None:
    """A patch to null removes a field anyway, and the API server cannot scale what holds a null."""
    null = [(kind, path) for kind in SCHEMAS for path, schema in everywhere(SCHEMAS[kind]) if "nullable" in schema]
    assert null == []


@pytest.mark.parametrize(("path", "schema"), EVERYWHERE)
def test_every_field_explains_itself(path: str, schema: Schema) -> None:
    if path == ".metadata":  # the API server allows no word of our own there
        assert schema == {"type": "object"}
        return
    assert schema.get("description", "").endswith("."), path


@pytest.mark.parametrize(("path", "schema"), EVERYWHERE)
def test_every_rule_between_fields_says_what_would_be_right(path: str, schema: Schema) -> None:
    """The message begins with the field, and the error points at it."""
    for rule in schema.get("x-kubernetes-validations", []):
        field, separator, right = rule["message"].partition(": ")
        assert (bool(separator), bool(right)) == (True, True), path
        if path:
            assert rule.get("fieldPath", f".{field}") == f".{field}", path


@pytest.mark.parametrize(("path", "schema"), EVERYWHERE)
def test_every_list_is_bounded_and_merges(path: str, schema: Schema) -> None:
    if schema.get("type") == "array":
        assert schema["maxItems"] <= 1000, path
        assert schema["x-kubernetes-list-type"] in ("map", "atomic"), path


@pytest.mark.parametrize(
    ("kind", "plural", "singular", "short", "categories"),
    [
        (names.KIND, names.PLURAL, names.SINGULAR, names.SHORT_NAME, ["all", names.CATEGORY]),
        (names.POOL_KIND, names.POOL_PLURAL, names.POOL_SINGULAR, names.POOL_SHORT_NAME, [names.CATEGORY]),
    ],
)
def test_names_are_those_of_the_code(kind: str, plural: str, singular: str, short: str, categories: list[str]) -> None:
    crd = CRDS[kind]
    assert crd["metadata"]["name"] == f"{plural}.{names.GROUP}"
    assert crd["spec"]["group"] == names.GROUP
    assert crd["spec"]["scope"] == "Namespaced"
    assert VERSIONS[kind]["name"] == names.VERSION
    assert crd["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": singular,
        "shortNames": [short],
        "categories": categories,
    }


def columns(kind: str, priority: int) -> list[str]:
    return [
        column["name"].upper()
        for column in VERSIONS[kind]["additionalPrinterColumns"]
        if column.get("priority", 0) == priority
    ]


def test_people_see_the_seven_columns() -> None:
    assert columns(names.KIND, 0) == ["URL", "MODEL", "STATE", "READY", "DESIRED", "REASON", "AGE"]
    assert columns(names.KIND, 1) == ["GPUS", "COLDSTART", "REVISION", "POOL"]


def test_people_see_how_many_workers_a_pool_has() -> None:
    assert columns(names.POOL_KIND, 0) == ["NODES", "DESIRED", "READY", "UPDATED", "REASON", "AGE"]
    assert columns(names.POOL_KIND, 1) == ["RESOURCE", "IMAGE"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_columns_selectors_and_scale_name_fields_that_are_there(kind: str) -> None:
    known = {path for path, _ in everywhere(SCHEMAS[kind])}
    version = VERSIONS[kind]
    named = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    named += [field["jsonPath"] for field in version.get("selectableFields", [])]
    named += version["subresources"].get("scale", {}).values()
    filtered = [path for path in named if not path.startswith((".metadata.", ".status.conditions["))]
    assert set(filtered) - known == set()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_status_has_our_words(kind: str) -> None:
    assert VERSIONS[kind]["subresources"]["status"] == {}
    status = SCHEMAS[kind]["properties"]["status"]["properties"]
    assert status["observedGeneration"]["format"] == "int64"
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert status["conditions"]["maxItems"] >= len(ConditionType)
    condition = status["conditions"]["items"]["properties"]
    assert condition["status"]["enum"] == [str(word) for word in Status]
    assert all(len(reason) <= condition["reason"]["maxLength"] for reason in Reason)
    if kind == names.KIND:
        assert status["state"]["enum"] == [str(state) for state in State]


def test_the_operator_writes_only_what_the_status_has() -> None:
    function = SCHEMAS[names.KIND]["properties"]["status"]["properties"]
    assert set(body.OURS) - function.keys() == set()
    assert function["conditions"]["items"]["properties"]["message"]["maxLength"] >= past.LONGEST_MESSAGE
    assert function["scaling"]["properties"]["message"]["maxLength"] >= past.LONGEST_MESSAGE
    assert function["scaling"]["properties"]["inputs"]["maxItems"] == past.MOST_INPUTS
    pool = SCHEMAS[names.POOL_KIND]["properties"]["status"]["properties"]
    written = pool_status.status(pool_status.Look(generation=1), {}, 0.0)
    assert written.keys() == pool.keys()
    assert pool["nodes"]["maxItems"] == pool_status.MOST_NODES


def test_what_a_worker_asks_for_by_itself_is_explained() -> None:
    """A default would stand in the way of a limit, which is a request where there is none."""
    resources = SCHEMAS[names.POOL_KIND]["properties"]["spec"]["properties"]["resources"]
    for amount in (CPU_REQUEST, MEMORY_REQUEST):
        assert amount in resources["properties"]["requests"]["description"]


def test_functions_scale_and_pools_do_not() -> None:
    assert VERSIONS[names.KIND]["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert "scale" not in VERSIONS[names.POOL_KIND]["subresources"]


def test_functions_are_found_by_pool_model_and_state() -> None:
    fields_found = [field["jsonPath"] for field in VERSIONS[names.KIND]["selectableFields"]]
    assert fields_found == [".spec.pool", ".spec.model.name", ".status.state"]
