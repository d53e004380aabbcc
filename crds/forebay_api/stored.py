"""What every stored object has around its spec: apiVersion, kind, metadata; and the reading of a whole body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from forebay_api import names
from forebay_api.fields import Problem, check, read, refuse_unknown, write
from forebay_api.rules import Text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
SUBDOMAIN_LENGTH = 253

NAME = Text(DNS_LABEL, names.NAME_LENGTH, f"lower-case letters, digits and '-', at most {names.NAME_LENGTH} characters")
NAMESPACE = Text(DNS_LABEL, names.LABEL_LENGTH, f"lower-case letters, digits and '-', at most {names.LABEL_LENGTH}")
BODY_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
# What the API server keeps there; a body may come from `kubectl get -o yaml`.
METADATA_FIELDS = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "generation",
    "creationTimestamp",
    "resourceVersion",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "generateName",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


class InvalidBody(Exception):
    """A body that is not what it should be; ``problems`` has all that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Metadata:
    """``created`` is in unix seconds; ``generation`` grows by one whenever the spec changes."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: float


def read_body(body: Mapping[str, object], kind: str, spec: type[S], problems: list[Problem]) -> tuple[Metadata, S]:
    """What a YAML document or an API object says. Where problems are appended, the values returned mean nothing."""
    refuse_unknown(body, BODY_FIELDS, "", problems)
    _expect_constant(body, "apiVersion", names.API_VERSION, problems)
    _expect_constant(body, "kind", kind, problems)
    return _metadata(body.get("metadata"), problems), read(spec, body.get("spec"), "spec", problems)


def write_body(metadata: Metadata, kind: str, spec: DataclassInstance) -> dict[str, object]:
    """The body with every default written out."""
    told: dict[str, object] = {
        "namespace": metadata.namespace,
        "name": metadata.name,
        "generation": metadata.generation,
    }
    if metadata.uid:
        told["uid"] = metadata.uid
    if metadata.created:
        told["creationTimestamp"] = datetime.fromtimestamp(metadata.created, UTC).isoformat()
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": told, "spec": write(spec)}


def _expect_constant(body: Mapping[str, object], key: str, right: str, problems: list[Problem]) -> None:
    if body.get(key) != right:
        problems.append(Problem(key, body.get(key), right))


def _metadata(found: object, problems: list[Problem]) -> Metadata:
    if not isinstance(found, Mapping):
        problems.append(Problem("metadata", found, "a mapping with a name"))
        found = {}
    else:
        refuse_unknown(found, METADATA_FIELDS, "metadata", problems)
        check(NAME, found.get("name"), "metadata.name", problems)
        if found.get("namespace") is not None:
            check(NAMESPACE, found["namespace"], "metadata.namespace", problems)
    generation = found.get("generation")
    return Metadata(
        namespace=_word(found.get("namespace")) or names.DEFAULT_NAMESPACE,
        name=_word(found.get("name")),
        uid=_word(found.get("uid")),
        generation=generation if isinstance(generation, int) else 1,
        created=_unix_seconds(found.get("creationTimestamp")),
    )


def _word(found: object) -> str:
    return found if isinstance(found, str) else ""


def _unix_seconds(found: object) -> float:
    """Of a timestamp as YAML reads it (a datetime) or as JSON carries it (RFC 3339). 0 where there is none."""
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return 0.0
    return found.timestamp() if isinstance(found, datetime) else 0.0
