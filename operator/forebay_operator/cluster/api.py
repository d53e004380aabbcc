"""Reads and writes of the API server: plain dicts in and out, every call bounded, every error one of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

from kubernetes.aio.client import ApiClient
from kubernetes.aio.client import rest as transport
from prometheus_client import Counter

from forebay_operator.cluster.kinds import KINDS, Kind
from forebay_operator.cluster.login import log_in

MANAGER = "forebay-operator"
"""Our field manager, and our User-Agent."""

TIMEOUT = 10.0
"""Seconds for one call, from connecting to the last byte."""

TRANSPORT_ERRORS = (transport.aiohttp.ClientError, OSError)  # type: ignore[attr-defined]  # the client lets its transport's out

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Asks for objects without spec and status."""

NO_VERDICT = frozenset((408, 429, 502, 503, 504))
"""Statuses of a server, or of a proxy before it, that could not decide: later it may. 500 is none of them: it is also
the answer to an applied body with a field that the schema does not know."""

REQUESTS = Counter("forebay_api_requests_total", "Calls of the Kubernetes API.", ["verb", "kind", "code"])

READS = frozenset(("get", "list"))

Json = dict[str, Any]


class ApiError(Exception):
    """The API server said no. ``status`` is HTTP's, 0 where none came; ``reason`` and ``message`` are its own words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason or 'Error'} ({status}): {message}")
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(ApiError):
    """No such object, or no such kind."""


class Conflict(ApiError):
    """Another writer was faster (reason Conflict), or the object is there already (AlreadyExists)."""


class Unreachable(ApiError):
    """No verdict: nobody answered in time, or the server is overloaded or fails, or we may not write until our lease is
    renewed. Later it may go well."""


class Api:
    """One connection pool. Bodies need ``apiVersion``, ``kind`` and ``metadata``.

    Every method raises NotFound, Conflict, Unreachable or, for all else (refused by schema, forbidden), ApiError."""

    def __init__(
        self, client: ApiClient, timeout: float = TIMEOUT, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._may_write = may_write
        client.user_agent = MANAGER

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, context: str | None = None) -> AsyncIterator[Self]:
        """``context``: of the kubeconfig; None: the pod's service account, else the current one. Opens no connection
        before the first call. Raises CannotLogIn."""
        async with ApiClient(await log_in(context)) as client:
            yield cls(client)

    def while_true(self, may_write: Callable[[], bool]) -> Api:
        """The same, for who asks ``may_write`` before each call that is no read, and makes none where it is False."""
        return Api(self._client, self._timeout, may_write)

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        return await self._call("get", "GET", kind, kind.path(namespace, name))

    async def versions(self, kind: Kind, namespace: str = "", selector: str = "") -> Mapping[str, str]:
        """Of all objects that exist now, by uid, in one namespace or (empty) in all; ``selector`` by labels."""
        path = kind.path(namespace) if namespace or not kind.namespaced else kind.everywhere
        query = {"labelSelector": selector} if selector else None
        found = await self._call("list", "GET", kind, path, query, accept=METADATA_LIST)
        listed = (item["metadata"] for item in found.get("items") or ())
        return {str(metadata["uid"]): str(metadata.get("resourceVersion", "")) for metadata in listed}

    async def apply(self, body: Mapping[str, Any], *, subresource: str = "") -> Json:
        """Server-side apply: what ``body`` has is ours from now on, whoever had it before; what it lacks and was ours
        goes."""
        kind, path = _target(body, subresource)
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._call("apply", "PATCH", kind, path, query, body, "application/apply-patch+yaml", subresource)

    async def create(self, body: Mapping[str, Any]) -> Json:
        kind = KINDS.of(body)
        path = kind.path(body["metadata"].get("namespace", ""))
        return await self._call("create", "POST", kind, path, {"fieldManager": MANAGER}, body)

    async def replace(self, body: Mapping[str, Any]) -> Json:
        """The whole object; a Conflict unless ``metadata.resourceVersion`` is still the stored one."""
        kind, path = _target(body, "")
        return await self._call("replace", "PUT", kind, path, {"fieldManager": MANAGER}, body)

    async def patch_merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Json:
        """JSON merge patch: null deletes a field, a list replaces a list."""
        path, query = kind.path(namespace, name), {"fieldManager": MANAGER}
        return await self._call("patch", "PATCH", kind, path, query, patch, "application/merge-patch+json")

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> Json:
        """Only that very object, else a Conflict; with its own grace."""
        body: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        return await self._call("delete", "DELETE", kind, kind.path(namespace, name), body=body)

    async def _call(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        subresource: str = "",
        accept: str = "application/json",
    ) -> Json:
        if verb not in READS and not self._may_write():
            raise Unreachable(
                0, "LeaseNotRenewed", "another operator may lead by now: nothing is written until it is clear"
            )
        label = f"{kind.plural}/{subresource}" if subresource else kind.plural
        try:
            async with asyncio.timeout(self._timeout):
                status, text = await self._send(method, path, query, body, content, accept)
        except TimeoutError as error:
            REQUESTS.labels(verb, label, "timeout").inc()
            raise Unreachable(0, "Timeout", f"no answer within {self._timeout:g} s") from error
        except TRANSPORT_ERRORS as error:
            REQUESTS.labels(verb, label, "unreachable").inc()
            raise Unreachable(0, "Unreachable", str(error) or type(error).__name__) from error
        REQUESTS.labels(verb, label, str(status)).inc()
        return _verdict(status, text)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content: str,
        accept: str,
    ) -> tuple[int, bytes]:
        url = f"{self._client.configuration.host}{path}"
        if query:
            url += f"?{urlencode(query)}"
        headers: dict[str, str] = {**self._client.default_headers, "Accept": accept}
        if body is not None:
            headers["Content-Type"] = content
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        answer = await self._client.call_api(method, url, headers, body, _request_timeout=self._timeout)
        return answer.status, await answer.read()  # type: ignore[no-untyped-call]


def _target(body: Mapping[str, Any], subresource: str) -> tuple[Kind, str]:
    kind = KINDS.of(body)
    metadata = body["metadata"]
    return kind, kind.path(metadata.get("namespace", ""), metadata["name"], subresource)


def _verdict(status: int, text: bytes) -> Json:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = {"message": text[:200].decode(errors="replace")}
    if not isinstance(found, dict):
        found = {"message": str(found)[:200]}
    if 200 <= status < 300:
        return found
    kind = {404: NotFound, 409: Conflict}.get(status, Unreachable if status in NO_VERDICT else ApiError)
    raise kind(status, str(found.get("reason") or ""), str(found.get("message") or ""))
