"""The kinds of objects that the operator reads or writes, and where the API server keeps each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forebay_api import names


@dataclass(frozen=True, slots=True)
class Kind:
    """``name`` is what a body's ``kind`` says; ``group`` is empty for the core API."""

    group: str
    version: str
    plural: str
    namespaced: bool
    name: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def everywhere(self) -> str:
        """The path of the collection over all namespaces."""
        return f"/apis/{self.api_version}/{self.plural}" if self.group else f"/api/{self.api_version}/{self.plural}"

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of an object, or of the collection when ``name`` is empty. Raises ValueError for a namespaced kind without a
        namespace: the path would be another object's."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        if self.namespaced:
            if not namespace:
                raise ValueError(f"{self.name} {name!r}: a namespace is needed")
            root += f"/namespaces/{namespace}"
        return "/".join(part for part in (root, self.plural, name, subresource) if part)


class KINDS:
    """Every kind that we touch."""

    FUNCTION = Kind(names.GROUP, names.VERSION, names.PLURAL, True, names.KIND)
    POOL = Kind(names.GROUP, names.VERSION, "workerpools", True, "WorkerPool")
    POD = Kind("", "v1", "pods", True, "Pod")
    NODE = Kind("", "v1", "nodes", False, "Node")
    SECRET = Kind("", "v1", "secrets", True, "Secret")
    CONFIGMAP = Kind("", "v1", "configmaps", True, "ConfigMap")
    LEASE = Kind("coordination.k8s.io", "v1", "leases", True, "Lease")
    CLAIM = Kind("", "v1", "persistentvolumeclaims", True, "PersistentVolumeClaim")
    EVENT = Kind("events.k8s.io", "v1", "events", True, "Event")

    @classmethod
    def of(cls, body: Mapping[str, object]) -> Kind:
        """The kind of a body. Raises ValueError for one that we never touch."""
        named = (str(body.get("apiVersion", "")), str(body.get("kind", "")))
        for kind in ALL:
            if (kind.api_version, kind.name) == named:
                return kind
        raise ValueError(f"apiVersion {named[0]!r}, kind {named[1]!r}: expected one of {[kind.name for kind in ALL]}")


ALL = tuple(kind for kind in vars(KINDS).values() if isinstance(kind, Kind))
