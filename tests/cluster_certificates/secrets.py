"""The Secrets of an API server in memory, versions and their conflicts as the real one has them."""

from __future__ import annotations

import base64
import copy
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from forebay_operator.cluster.api import Conflict, NotFound
from forebay_operator.cluster.kinds import KINDS, Kind

NAMESPACE = "forebay-system"
RELEASE = "forebay"
Json = dict[str, Any]


class Secrets:
    """``meddle`` is called before every write with its verb and name: another leader may be faster."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.writes: list[tuple[str, str]] = []
        self.meddle: Callable[[str, str], Awaitable[None]] | None = None
        self.owner_uid = ""
        self._version = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        assert namespace == NAMESPACE
        if kind is KINDS.CONFIGMAP and name.endswith("-owner") and self.owner_uid:
            return {"metadata": {"uid": self.owner_uid}}
        if kind is not KINDS.SECRET or name not in self.objects:
            raise NotFound(404, "NotFound", f'{kind.plural} "{name}" not found')
        return copy.deepcopy(self.objects[name])

    async def create(self, body: Mapping[str, Any]) -> Json:
        name = body["metadata"]["name"]
        await self._meddle("create", name)
        assert "resourceVersion" not in body["metadata"], "the API server refuses that"
        if name in self.objects:
            raise Conflict(409, "AlreadyExists", f'secrets "{name}" already exists')
        return self._store(name, body)

    async def replace(self, body: Mapping[str, Any]) -> Json:
        name = body["metadata"]["name"]
        await self._meddle("replace", name)
        if name not in self.objects:
            raise NotFound(404, "NotFound", f'secrets "{name}" not found')
        stored = self.objects[name]
        if body["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        assert body["type"] == stored["type"], "immutable"
        return self._store(name, body)

    def data(self, name: str) -> dict[str, bytes]:
        return {key: base64.b64decode(value) for key, value in self.objects[name]["data"].items()}

    async def _meddle(self, verb: str, name: str) -> None:
        meddle, self.meddle = self.meddle, None  # not within itself
        if meddle is not None:
            await meddle(verb, name)
            self.meddle = meddle

    def _store(self, name: str, body: Mapping[str, Any]) -> Json:
        assert body["metadata"]["namespace"] == NAMESPACE
        assert {"tls.crt", "tls.key"} <= set(body["data"]), "what type kubernetes.io/tls needs"
        self.writes.append(("write", name))
        self._version += 1
        self.objects[name] = copy.deepcopy(dict(body))
        self.objects[name]["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.objects[name])
