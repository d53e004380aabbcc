"""`LLMFunction`: what a user applies and calls, as frozen values, and the rules that its fields obey.

The rules beside the fields are the one place that says what is right; ``crds/llmfunctions.yaml`` is tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from forebay_api import names
from forebay_api.fields import (
    Problem,
    Text,
    boolean,
    check,
    choice,
    integer,
    number,
    read,
    refuse_unknown,
    text,
    write,
)

__all__ = [
    "Function",
    "FunctionKey",
    "FunctionSpec",
    "InvalidFunction",
    "Loading",
    "LoadingStrategy",
    "ModelSpec",
    "Problem",
    "Queue",
    "Scaling",
]

DTYPES = ("auto", "bfloat16", "float16", "float32")
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
URI_PATTERN = r"^(file:///|hf://|s3://|https://).+$"

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


class LoadingStrategy(StrEnum):
    """``PIPELINED``: several workers pull a part each and serve together. ``FULL``: one worker pulls everything."""

    PIPELINED = "Pipelined"
    FULL = "Full"


@dataclass(frozen=True, slots=True, order=True)
class FunctionKey:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """``name`` is the model's name to callers (empty: the function's own); ``max_model_len`` is in tokens."""

    uri: str = field(
        metadata=text(
            pattern=URI_PATTERN,
            max_length=1024,
            expected="file:///absolute/folder (or hf://, s3://, https://), at most 1024 characters",
        )
    )
    name: str = field(
        default="",
        metadata=text(
            pattern=r"^([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?)?$",
            max_length=63,
            expected="letters, digits, '-', '.' and '_', beginning and ending with a letter or digit, at most 63",
        ),
    )
    dtype: str = field(default="auto", metadata=choice(DTYPES))
    max_model_len: int | None = field(default=None, metadata=integer(minimum=1))


@dataclass(frozen=True, slots=True)
class Scaling:
    """``target`` is the requests in flight that one replica should have."""

    min_replicas: int = field(default=0, metadata=integer(minimum=0))
    max_replicas: int = field(default=4, metadata=integer(minimum=1))
    target: float = field(default=16.0, metadata=number(minimum=0.01, maximum=1e6))
    scale_to_zero_grace_period_seconds: int = field(default=30, metadata=integer(minimum=0))


@dataclass(frozen=True, slots=True)
class Queue:
    """The waiting room: how many may wait, and how long when something serves and when nothing does yet."""

    max_requests: int = field(default=1000, metadata=integer(minimum=1))
    queue_timeout_seconds: int = field(default=60, metadata=integer(minimum=1))
    cold_start_timeout_seconds: int = field(default=300, metadata=integer(minimum=1))


@dataclass(frozen=True, slots=True)
class Loading:
    strategy: LoadingStrategy = field(default=LoadingStrategy.PIPELINED, metadata=choice(LoadingStrategy))
    max_stages: int = field(default=4, metadata=integer(minimum=1, maximum=16))


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """``replicas`` pins the number by hand (0: off, None: the autoscaler's); ``container_concurrency`` 0 = no cap."""

    model: ModelSpec = field(metadata={"section": ModelSpec})
    scaling: Scaling = field(default=Scaling(), metadata={"section": Scaling})
    replicas: int | None = field(default=None, metadata=integer(minimum=0))
    container_concurrency: int = field(default=0, metadata=integer(minimum=0, maximum=1000))
    timeout_seconds: int = field(default=600, metadata=integer(minimum=1, maximum=3600))
    queue: Queue = field(default=Queue(), metadata={"section": Queue})
    loading: Loading = field(default=Loading(), metadata={"section": Loading})
    suspend: bool = field(default=False, metadata=boolean())


class InvalidFunction(Exception):
    """A body that is no `LLMFunction`; ``problems`` has all that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Function:
    """``created`` is in unix seconds; ``generation`` grows by one whenever the spec changes."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: float
    spec: FunctionSpec

    @property
    def key(self) -> FunctionKey:
        return FunctionKey(self.namespace, self.name)

    @property
    def served_name(self) -> str:
        return self.spec.model.name or self.name

    @classmethod
    def from_body(cls, body: Mapping[str, object]) -> Function:
        """The function that a YAML document or an API object describes. Raises `InvalidFunction` with all problems."""
        problems: list[Problem] = []
        refuse_unknown(body, BODY_FIELDS, "", problems)
        _expect_constant(body, "apiVersion", names.API_VERSION, problems)
        _expect_constant(body, "kind", names.KIND, problems)
        metadata = _metadata(body.get("metadata"), problems)
        spec = read(FunctionSpec, body.get("spec"), "spec", problems)
        problems += _contradictions(spec, problems)
        if problems:
            raise InvalidFunction(tuple(problems))
        return cls(
            namespace=str(metadata.get("namespace") or names.DEFAULT_NAMESPACE),
            name=str(metadata["name"]),
            uid=str(metadata.get("uid") or ""),
            generation=_generation(metadata.get("generation")),
            created=_unix_seconds(metadata.get("creationTimestamp")),
            spec=spec,
        )

    def to_body(self) -> dict[str, object]:
        """The body with every default written out; ``from_body`` of it is this function again."""
        metadata: dict[str, object] = {"namespace": self.namespace, "name": self.name, "generation": self.generation}
        if self.uid:
            metadata["uid"] = self.uid
        if self.created:
            metadata["creationTimestamp"] = datetime.fromtimestamp(self.created, UTC).isoformat()
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": metadata,
            "spec": write(self.spec),
        }


def _expect_constant(body: Mapping[str, object], key: str, right: str, problems: list[Problem]) -> None:
    if body.get(key) != right:
        problems.append(Problem(key, body.get(key), right))


def _metadata(found: object, problems: list[Problem]) -> Mapping[str, object]:
    if not isinstance(found, Mapping):
        problems.append(Problem("metadata", found, "a mapping with a name"))
        return {}
    refuse_unknown(found, METADATA_FIELDS, "metadata", problems)
    check(NAME, found.get("name"), "metadata.name", problems)
    if found.get("namespace") is not None:
        check(NAMESPACE, found["namespace"], "metadata.namespace", problems)
    return found


def _contradictions(spec: FunctionSpec, found: list[Problem]) -> list[Problem]:
    """What is wrong between fields that are right each by itself."""
    scaling = spec.scaling
    low, high = "spec.scaling.minReplicas", "spec.scaling.maxReplicas"
    if scaling.min_replicas > scaling.max_replicas and not {low, high} & {problem.field for problem in found}:
        return [Problem(low, scaling.min_replicas, f"at most {high}, which is {scaling.max_replicas}")]
    return []


def _generation(found: object) -> int:
    return found if isinstance(found, int) else 1


def _unix_seconds(found: object) -> float:
    """Of a timestamp as YAML reads it (a datetime) or as JSON carries it (RFC 3339). 0 where there is none."""
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return 0.0
    return found.timestamp() if isinstance(found, datetime) else 0.0
