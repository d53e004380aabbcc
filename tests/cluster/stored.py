"""An API that keeps objects in memory, to inject faults: versions grow, uids are checked, a status is one field."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from forebay_operator.cluster.api import Api, Conflict, NotFound


class Stored(Api):
    """``faults`` are raised first, one by one; ``calls`` has what was asked, by verb."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.faults: list[Exception] = []
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self._versions = itertools.count(1)

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """As somebody else would."""
        found = copy.deepcopy(dict(body))
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[_key(found)] = found
        return found

    async def apply(self, body: Mapping[str, Any], *, subresource: str = "") -> dict[str, Any]:
        self._ask("apply", body)
        there = self.objects.get(_key(body))
        if there is None:
            raise NotFound(404, "NotFound", "not found")
        if body["metadata"].get("uid") not in (None, there["metadata"]["uid"]):
            raise Conflict(409, "Conflict", "uid mismatch")
        assert subresource == "status"
        return copy.deepcopy(self.put({**there, "status": body["status"]}))

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._ask("create", body)
        return copy.deepcopy(self.put(body))

    async def patch_merge(self, kind: Any, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        there = self.objects.get((kind.name, namespace, name))
        if there is None:
            raise NotFound(404, "NotFound", "not found")
        self._ask("patch", patch)
        return copy.deepcopy(self.put({**there, **patch}))

    def _ask(self, verb: str, body: Mapping[str, Any]) -> None:
        self.calls.append((verb, copy.deepcopy(dict(body))))
        if self.faults:
            raise self.faults.pop(0)


def _key(body: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(body["kind"]), str(body["metadata"].get("namespace", "")), str(body["metadata"]["name"])
