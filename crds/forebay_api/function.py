"""`LLMFunction`: what a user applies and calls, as frozen values, and the rules that its fields obey.

The rules beside the fields are the one place that says what is right; ``crds/llmfunctions.yaml`` is tested against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from forebay_api import names
from forebay_api.fields import Problem
from forebay_api.rules import boolean, choice, integer, number, text
from forebay_api.stored import DNS_LABEL, DNS_SUBDOMAIN, SUBDOMAIN_LENGTH, InvalidBody, Metadata, read_body, write_body

__all__ = [
    "Credentials",
    "Function",
    "FunctionKey",
    "FunctionSpec",
    "InvalidFunction",
    "Loading",
    "LoadingStrategy",
    "ModelSpec",
    "OwnQuery",
    "Problem",
    "Queue",
    "Scaling",
    "ScalingMetric",
    "ScalingMode",
    "SecretRef",
]

DTYPES = ("auto", "bfloat16", "float16", "float32")
URI_PATTERN = r"^(file:///|hf://|s3://|https://).+$"
HUB_REPOSITORY = r"^hf://[^/:@]+/[^/:@]+([:@].+)?$"
HUB_REVISION = r"^hf://[^:@]+[:@].*$"
WEB_FOLDER = r"^https://[^/@?#]+(/[^?#]*)?$"
TOKEN_KEY = "HF_TOKEN"


class LoadingStrategy(StrEnum):
    """``PIPELINED``: several workers pull a part each and serve together. ``FULL``: one worker pulls everything."""

    PIPELINED = "Pipelined"
    FULL = "Full"


class FunctionKey(NamedTuple):
    """A named tuple: a pass makes and looks up several of each function, at a third of what a frozen class takes."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """One value in a Secret of the function's namespace."""

    name: str = field(
        metadata=text(
            pattern=DNS_SUBDOMAIN,
            max_length=SUBDOMAIN_LENGTH,
            expected="the name of a Secret: lower-case letters, digits, '-' and '.'",
        )
    )
    key: str = field(
        default=TOKEN_KEY,
        metadata=text(
            pattern=r"^[-._A-Za-z0-9]+$",
            max_length=SUBDOMAIN_LENGTH,
            expected="a key of the Secret: letters, digits, '-', '_' and '.'",
        ),
    )


@dataclass(frozen=True, slots=True)
class Credentials:
    secret_ref: SecretRef = field(metadata={"section": SecretRef})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """``name`` is the model's name to callers (empty: the function's own); ``max_model_len`` is in tokens; ``digest``
    is that of the manifest of files, and ``credentials`` those with which they are fetched."""

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
    revision: str | None = field(
        default=None,
        metadata=text(
            pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/]*$",
            max_length=255,
            expected="a commit, tag or branch: letters, digits, '-', '_', '.' and '/', at most 255",
        ),
    )
    digest: str | None = field(
        default=None,
        metadata=text(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71, expected="sha256: and 64 hexadecimal digits"),
    )
    credentials: Credentials | None = field(default=None, metadata={"section": Credentials})


class ScalingMode(StrEnum):
    """Who decides on one replica and more: we (``INTERNAL``), or whoever writes ``spec.replicas`` (``EXTERNAL``)."""

    INTERNAL = "Internal"
    EXTERNAL = "External"


class ScalingMetric(StrEnum):
    """What is counted: requests in flight and held, or the tokens that are written in a second."""

    CONCURRENCY = "Concurrency"
    TOKENS_PER_SECOND = "TokensPerSecond"


@dataclass(frozen=True, slots=True)
class OwnQuery:
    """PromQL that gives the one number which is counted instead, and how much of it one replica should have."""

    query: str = field(
        metadata=text(
            pattern=r"^[\s\S]*[^ \t\r\n][\s\S]*$",
            max_length=4096,
            expected="a query in PromQL, at most 4096 characters",
        )
    )
    target: float = field(metadata=number(minimum=0.01, maximum=1e9))


@dataclass(frozen=True, slots=True)
class Scaling:
    """``target`` is how much of the metric one replica can take (requests in flight and held, or tokens per second), of
    which ``target_utilization_percent`` should be in use. ``panic_window_percent`` is of the window,
    ``panic_threshold_percent`` of what the replicas that serve should have. ``max_scale_up_rate`` and
    ``max_scale_down_rate`` are factors for two seconds."""

    mode: ScalingMode = field(default=ScalingMode.INTERNAL, metadata=choice(ScalingMode))
    min_replicas: int = field(default=0, metadata=integer(minimum=0))
    max_replicas: int = field(default=4, metadata=integer(minimum=1))
    metric: ScalingMetric = field(default=ScalingMetric.CONCURRENCY, metadata=choice(ScalingMetric))
    target: float = field(default=16.0, metadata=number(minimum=0.01, maximum=1e6))
    target_utilization_percent: int = field(default=70, metadata=integer(minimum=1, maximum=100))
    window_seconds: int = field(default=60, metadata=integer(minimum=6, maximum=3600))
    panic_window_percent: int = field(default=10, metadata=integer(minimum=1, maximum=100))
    panic_threshold_percent: int = field(default=200, metadata=integer(minimum=110, maximum=1000))
    max_scale_up_rate: float = field(default=1000.0, metadata=number(minimum=1.01, maximum=100_000))
    max_scale_down_rate: float = field(default=2.0, metadata=number(minimum=1.01, maximum=100_000))
    scale_down_delay_seconds: int = field(default=0, metadata=integer(minimum=0, maximum=3600))
    scale_to_zero_grace_period_seconds: int = field(default=30, metadata=integer(minimum=0))
    prometheus: OwnQuery | None = field(default=None, metadata={"section": OwnQuery})

    def aim(self, target: float) -> float:
        """What one replica is to have of ``target``: the share that should be in use."""
        return target * self.target_utilization_percent / 100


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
    """``replicas`` pins the number by hand (0: off, None: the autoscaler's); in mode External it is what another
    autoscaler wants. ``container_concurrency`` 0 = no cap;
    ``pool`` names the `WorkerPool` (local mode has one pool and does not look); the higher ``priority`` goes first."""

    model: ModelSpec = field(metadata={"section": ModelSpec})
    scaling: Scaling = field(default=Scaling(), metadata={"section": Scaling})
    replicas: int | None = field(default=None, metadata=integer(minimum=0))
    container_concurrency: int = field(default=0, metadata=integer(minimum=0, maximum=1000))
    timeout_seconds: int = field(default=600, metadata=integer(minimum=1, maximum=3600))
    queue: Queue = field(default=Queue(), metadata={"section": Queue})
    loading: Loading = field(default=Loading(), metadata={"section": Loading})
    suspend: bool = field(default=False, metadata=boolean())
    pool: str = field(
        default=names.DEFAULT_POOL,
        metadata=text(
            pattern=DNS_LABEL,
            max_length=names.NAME_LENGTH,
            expected=f"the name of a WorkerPool: lower-case letters, digits and '-', at most {names.NAME_LENGTH}",
        ),
    )
    priority: int = field(default=0, metadata=integer(minimum=-1000, maximum=1000))


class InvalidFunction(InvalidBody):
    """A body that is no `LLMFunction`."""


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
        metadata, spec = read_body(body, names.KIND, FunctionSpec, problems)
        problems += _contradictions(spec, frozenset(problem.field for problem in problems))
        if problems:
            raise InvalidFunction(tuple(problems))
        return cls(metadata.namespace, metadata.name, metadata.uid, metadata.generation, metadata.created, spec)

    def to_body(self) -> dict[str, object]:
        """The body with every default written out; ``from_body`` of it is this function again."""
        metadata = Metadata(self.namespace, self.name, self.uid, self.generation, self.created)
        return write_body(metadata, names.KIND, self.spec)


def _contradictions(spec: FunctionSpec, wrong: frozenset[str]) -> Iterator[Problem]:
    """What is wrong between fields that are right each by itself; those that are ``wrong`` already say nothing."""
    scaling = spec.scaling
    low, high = "spec.scaling.minReplicas", "spec.scaling.maxReplicas"
    if scaling.min_replicas > scaling.max_replicas and not {low, high} & wrong:
        yield Problem(low, scaling.min_replicas, f"at most {high}, which is {scaling.max_replicas}")
    if scaling.mode is ScalingMode.EXTERNAL and spec.replicas is None and "spec.replicas" not in wrong:
        yield Problem("spec.replicas", None, "a number: spec.scaling.mode External needs it")
    if not wrong & {"spec", "spec.model", "spec.model.uri"}:  # then there is no uri
        yield from _contradictions_of_source(spec.model)


def _contradictions_of_source(model: ModelSpec) -> Iterator[Problem]:
    if model.uri.startswith("https://") and not re.fullmatch(WEB_FOLDER, model.uri):
        # What may be a password is not repeated.
        yield Problem("spec.model.uri", "https://…", "https://host/folder, without user, password, '?' and '#'")
    from_hub = model.uri.startswith("hf://")
    if from_hub and not re.fullmatch(HUB_REPOSITORY, model.uri):
        yield Problem("spec.model.uri", model.uri, "hf://owner/name or hf://owner/name:revision")
    if model.revision is not None and not from_hub:
        yield Problem("spec.model.revision", model.revision, "nothing here: only hf:// has revisions")
    if model.revision is not None and re.fullmatch(HUB_REVISION, model.uri):
        yield Problem("spec.model.revision", model.revision, "nothing here, or no revision in spec.model.uri")
    if model.credentials is not None and model.uri.startswith("file://"):
        yield Problem("spec.model.credentials", model.credentials.secret_ref.name, "nothing here: file:// needs none")
