"""`WorkerPool`: which nodes have workers, how many, and what their pods look like; and the rules of its fields.

The rules beside the fields are the one place that says what is right; ``crds/workerpools.yaml`` is tested against it.
What the API server knows by heart (tolerations, environment, volumes) is kept as it is. The pods themselves are made
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forebay_api import names
from forebay_api.fields import Problem
from forebay_api.frozen import Frozen
from forebay_api.rules import (
    AMOUNT,
    Choice,
    Quantity,
    Text,
    choice,
    integer,
    listed,
    named,
    piece,
    pieces,
    quantity,
    text,
)
from forebay_api.stored import DNS_SUBDOMAIN, SUBDOMAIN_LENGTH, InvalidBody, Metadata, read_body, write_body

__all__ = [
    "AccessMode",
    "Cache",
    "ClaimTemplate",
    "EmptyDir",
    "HostPath",
    "InvalidPool",
    "Pool",
    "PoolSpec",
    "PullPolicy",
    "Resources",
]

MOST_GPUS = 16

CPU_REQUEST = "250m"
"""What a worker asks of its node's processors where its pool says nothing of them: without any request the kernel gives
it only what all other pods leave, and on a busy node its start takes minutes. 16 workers still fit on 4 cores."""

MEMORY_REQUEST = "4Gi"
"""The same of memory: imported libraries, pinned buffers and a CUDA context come to about that. A pod that asks for
none is the first that a node short of memory kills."""

LABEL_VALUE = Text(
    r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    names.LABEL_LENGTH,
    f"a label's value: letters, digits, '-', '_' and '.', at most {names.LABEL_LENGTH}",
)
ANNOTATION = Text(r"^[^\x00]*$", 4096, "of at most 4096 characters")
ARGUMENT = Text(r"^[^\x00]*$", 1024, "of at most 1024 characters")
ACCOUNT_NAME = text(
    pattern=DNS_SUBDOMAIN,
    max_length=SUBDOMAIN_LENGTH,
    expected="the name of a service account: lower-case letters, digits, '-' and '.'",
)
CLASS_NAME = text(
    pattern=DNS_SUBDOMAIN,
    max_length=SUBDOMAIN_LENGTH,
    expected="the name of a class: lower-case letters, digits, '-' and '.'",
)


class PullPolicy(StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class AccessMode(StrEnum):
    """Of a claim that several pods of one node write to."""

    ONCE = "ReadWriteOnce"
    MANY = "ReadWriteMany"


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one worker, beside its GPU; ``limits`` and ``requests`` are quantities by resource name."""

    limits: Frozen[str] = field(default=Frozen(), metadata=named(Quantity(AMOUNT)))
    requests: Frozen[str] = field(default=Frozen(), metadata=named(Quantity(AMOUNT)))

    @property
    def asked(self) -> Mapping[str, str]:
        """``requests`` with ours. A limit is a request, too, as everywhere in Kubernetes."""
        ours = {"cpu": CPU_REQUEST, "memory": MEMORY_REQUEST}
        return {**{name: amount for name, amount in ours.items() if name not in self.limits}, **self.requests}


@dataclass(frozen=True, slots=True)
class ClaimTemplate:
    """One claim per node is made of it. ``storage_class_name`` None: the cluster's default class."""

    size: str = field(metadata=quantity())
    storage_class_name: str | None = field(default=None, metadata=CLASS_NAME)
    access_modes: tuple[str, ...] = field(
        default=(AccessMode.ONCE,), metadata=listed(Choice(AccessMode), minimum=1, maximum=2)
    )


@dataclass(frozen=True, slots=True)
class HostPath:
    path: str = field(
        metadata=text(pattern=r"^/[^:\x00]+$", max_length=1024, expected="an absolute folder of the node, not its root")
    )


@dataclass(frozen=True, slots=True)
class EmptyDir:
    """``size_limit`` None: as much as the node gives."""

    size_limit: str | None = field(default=None, metadata=quantity())


@dataclass(frozen=True, slots=True)
class Cache:
    """Where a worker keeps models: exactly one is not None. The first two are shared by the workers of a node."""

    claim_template: ClaimTemplate | None = field(default=None, metadata={"section": ClaimTemplate})
    host_path: HostPath | None = field(default=None, metadata={"section": HostPath})
    empty_dir: EmptyDir | None = field(default=None, metadata={"section": EmptyDir})


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """``gpus_per_node``: workers on each node, None for as many as the node offers, 0 for none (claims stay).
    ``image`` and ``image_pull_policy`` None: the operator's. ``cache`` None: each worker has a folder of its own that
    goes with its pod. ``max_unavailable``: workers that a change takes away at a time."""

    node_selector: Frozen[str] = field(metadata=named(LABEL_VALUE, minimum=1))
    gpus_per_node: int | None = field(default=None, metadata=integer(minimum=0, maximum=MOST_GPUS))
    resource_name: str = field(
        default="nvidia.com/gpu",
        metadata=text(
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            max_length=SUBDOMAIN_LENGTH,
            expected="an extended resource such as nvidia.com/gpu",
        ),
    )
    tolerations: tuple[Frozen[object], ...] = field(default=(), metadata=pieces())
    runtime_class_name: str | None = field(default=None, metadata=CLASS_NAME)
    priority_class_name: str | None = field(default=None, metadata=CLASS_NAME)
    service_account_name: str | None = field(default=None, metadata=ACCOUNT_NAME)
    pod_labels: Frozen[str] = field(default=Frozen(), metadata=named(LABEL_VALUE))
    pod_annotations: Frozen[str] = field(default=Frozen(), metadata=named(ANNOTATION))
    pod_security_context: Frozen[object] = field(default=Frozen(), metadata=piece())
    image: str | None = field(
        default=None, metadata=text(pattern=r"^\S+$", max_length=512, expected="an image without spaces, at most 512")
    )
    image_pull_policy: PullPolicy | None = field(default=None, metadata=choice(PullPolicy))
    resources: Resources = field(default=Resources(), metadata={"section": Resources})
    args: tuple[str, ...] = field(default=(), metadata=listed(ARGUMENT, maximum=64))
    env: tuple[Frozen[object], ...] = field(default=(), metadata=pieces("name", maximum=64))
    volumes: tuple[Frozen[object], ...] = field(default=(), metadata=pieces("name", maximum=32))
    volume_mounts: tuple[Frozen[object], ...] = field(default=(), metadata=pieces("mountPath", "name", maximum=32))
    shm_size: str = field(default="1Gi", metadata=quantity())
    termination_grace_period_seconds: int = field(default=600, metadata=integer(minimum=1, maximum=86400))
    cache: Cache | None = field(default=None, metadata={"section": Cache})
    max_unavailable: int = field(default=1, metadata=integer(minimum=1))


class InvalidPool(InvalidBody):
    """A body that is no `WorkerPool`."""


@dataclass(frozen=True, slots=True)
class Pool:
    """``created`` is in unix seconds; ``generation`` grows by one whenever the spec changes."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: float
    spec: PoolSpec

    @classmethod
    def from_body(cls, body: Mapping[str, object]) -> Pool:
        """The pool that a YAML document or an API object describes. Raises `InvalidPool` with all problems."""
        problems: list[Problem] = []
        metadata, spec = read_body(body, names.POOL_KIND, PoolSpec, problems)
        problems += _contradictions(spec, frozenset(problem.field for problem in problems))
        if problems:
            raise InvalidPool(tuple(problems))
        return cls(metadata.namespace, metadata.name, metadata.uid, metadata.generation, metadata.created, spec)

    def to_body(self) -> dict[str, object]:
        """The body with every default written out; ``from_body`` of it is this pool again."""
        metadata = Metadata(self.namespace, self.name, self.uid, self.generation, self.created)
        return write_body(metadata, names.POOL_KIND, self.spec)


def _contradictions(spec: PoolSpec, wrong: frozenset[str]) -> Iterator[Problem]:
    """What is wrong between fields that are right each by itself; those that are ``wrong`` already say nothing."""
    for key, amounts in (("limits", spec.resources.limits), ("requests", spec.resources.requests)):
        if spec.resource_name in amounts:
            expected = f"nothing here: each worker gets one {spec.resource_name} by itself"
            yield Problem(f"spec.resources.{key}", spec.resource_name, expected)
    if not wrong & {"spec.volumes", "spec.volumeMounts"}:
        known = {volume["name"] for volume in spec.volumes}
        for mount in spec.volume_mounts:
            if mount["name"] not in known:
                yield Problem("spec.volumeMounts", mount["name"], "the name of one of spec.volumes")
    if spec.cache is not None and not any(field.startswith("spec.cache") for field in wrong):
        given = (spec.cache.claim_template, spec.cache.host_path, spec.cache.empty_dir)
        if sum(held is not None for held in given) != 1:
            yield Problem("spec.cache", None, "exactly one of claimTemplate, hostPath and emptyDir")
