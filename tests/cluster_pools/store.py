"""An API server in memory: names are unique, uids and versions are given, deletion obeys preconditions and graces,
status is a subresource. It has no schemas and no garbage collector. ``failures`` makes calls fail; what is in
``vanishing`` is gone when somebody asks for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from forebay_operator.cluster.api import ApiError, Conflict, NotFound
from forebay_operator.cluster.kinds import KINDS, Kind
from forebay_operator.cluster.seen import ClusterSeen

NAMESPACE = "forebay-system"
CREATED = "2026-11-21T12:00:00Z"

Json = dict[str, Any]


class Store:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.failures: dict[tuple[str, str], ApiError] = {}
        self.vanishing: set[str] = set()
        self._count = 0

    # -- what Api has --

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        self._called("get", kind, name)
        if name in self.vanishing:
            self.gone(kind, name)
        return copy.deepcopy(self._at(kind, name))

    async def create(self, body: Mapping[str, Any]) -> Json:
        kind, name = KINDS.of(body), body["metadata"]["name"]
        self._called("create", kind, name)
        if (kind.name, name) in self.objects:
            raise Conflict(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        return copy.deepcopy(self.put(body))

    async def apply(self, body: Mapping[str, Any], *, subresource: str = "") -> Json:
        kind, name = KINDS.of(body), body["metadata"]["name"]
        self._called(f"apply {subresource}".strip(), kind, name)
        if subresource:
            stored = self._at(kind, name)
            stored["status"] = {**stored.get("status", {}), **copy.deepcopy(dict(body["status"]))}
        elif (kind.name, name) in self.objects:
            stored = self._at(kind, name)
            stored["spec"] = {**stored["spec"], **copy.deepcopy(dict(body["spec"]))}
            stored["metadata"] |= {"generation": stored["metadata"]["generation"] + 1}
        else:
            stored = self.put(body)
        self._version(stored)
        return copy.deepcopy(stored)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> Json:
        self._called("delete", kind, name)
        stored = self._at(kind, name)
        if stored["metadata"]["uid"] != uid:
            raise Conflict(409, "Conflict", "the UID in the precondition does not match")
        if stored.get("status", {}).get("phase") in ("Failed", "Succeeded") or not stored["spec"].get("nodeName"):
            del self.objects[kind.name, name]  # ends at once
        else:
            stored["metadata"]["deletionTimestamp"] = CREATED
            self._version(stored)
        return copy.deepcopy(stored)

    # -- what tests do --

    def put(self, body: Mapping[str, Any]) -> Json:
        stored = copy.deepcopy(dict(body))
        self._count += 1
        stored["metadata"] = {
            "uid": f"uid-{self._count}",
            "generation": 1,
            "creationTimestamp": CREATED,
            **stored["metadata"],
        }
        self._version(stored)
        self.objects[KINDS.of(body).name, body["metadata"]["name"]] = stored
        return stored

    def change(self, kind: Kind, name: str, change: Callable[[Json], object]) -> None:
        stored = self._at(kind, name)
        change(stored)
        self._version(stored)

    def gone(self, kind: Kind, name: str) -> None:
        del self.objects[kind.name, name]

    def names(self, kind: Kind) -> list[str]:
        return sorted(name for held, name in self.objects if held == kind.name)

    @property
    def seen(self) -> ClusterSeen:
        def of(kind: Kind) -> Mapping[str, Json]:
            return {name: copy.deepcopy(body) for (held, name), body in self.objects.items() if held == kind.name}

        return ClusterSeen(of(KINDS.POOL), of(KINDS.NODE), of(KINDS.POD), of(KINDS.CLAIM))

    def run_pods(self) -> None:
        """As kubelets would: those told to end are gone, the others are ready."""
        for name in self.names(KINDS.POD):
            pod = self._at(KINDS.POD, name)
            if "deletionTimestamp" in pod["metadata"]:
                self.gone(KINDS.POD, name)
                continue
            pod["spec"]["nodeName"] = pod["spec"]["affinity"]["nodeAffinity"][
                "requiredDuringSchedulingIgnoredDuringExecution"
            ]["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
            pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            self._version(pod)

    def _at(self, kind: Kind, name: str) -> Json:
        try:
            return self.objects[kind.name, name]
        except KeyError:
            raise NotFound(404, "NotFound", f'{kind.plural} "{name}" not found') from None

    def _called(self, verb: str, kind: Kind, name: str) -> None:
        self.calls.append((verb, kind.name, name))
        if (verb, kind.name) in self.failures:
            raise self.failures[verb, kind.name]

    def _version(self, stored: Json) -> None:
        self._count += 1
        stored["metadata"]["resourceVersion"] = str(self._count)


def pool_body(**spec: object) -> Json:
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "gpu", "namespace": NAMESPACE},
        "spec": {"nodeSelector": {"gpu": "yes"}, "gpusPerNode": 2, **spec},
    }


def node_body(name: str, devices: int = 4, **spec: object) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"gpu": "yes"}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "1930m", "memory": "8Gi", "nvidia.com/gpu": str(devices)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
