"""Calls of the API over real HTTP: what goes out, and how each way of failing comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from prometheus_client import REGISTRY

from forebay_operator.cluster.api import Api, ApiError, Conflict, NotFound, Unreachable
from forebay_operator.cluster.kinds import KINDS

FUNCTION = {
    "apiVersion": "forebay.dev/v1alpha1",
    "kind": "LLMFunction",
    "metadata": {"namespace": "ns", "name": "f"},
    "status": {"state": "Idle"},
}


class Server:
    """Answers every request with ``status`` and ``answer``; None: never."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: str | None = "{}"
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head[1:])}
                body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
                self.asked.append((head[0], headers, body))
                if self.answer is not None:
                    text = self.answer.encode()
                    writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    if server._server is not None:
        await server.stop()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    async with ApiClient(Configuration(host=await server.start())) as client:
        yield Api(client, timeout=5.0)


async def test_what_goes_out(api: Api, server: Server) -> None:
    await api.apply(FUNCTION, subresource="status")
    line, headers, body = server.asked[-1]
    path = "/apis/forebay.dev/v1alpha1/namespaces/ns/llmfunctions/f/status"
    assert line == f"PATCH {path}?fieldManager=forebay-operator&force=true HTTP/1.1"
    assert headers["content-type"] == "application/apply-patch+yaml"
    assert headers["user-agent"] == "forebay-operator"
    assert json.loads(body) == FUNCTION
    await api.delete(KINDS.POD, "ns", "p", uid="u")
    line, _, body = server.asked[-1]
    assert line == "DELETE /api/v1/namespaces/ns/pods/p HTTP/1.1"
    assert json.loads(body)["preconditions"] == {"uid": "u"}
    await api.patch_merge(KINDS.POD, "ns", "p", {"metadata": {"labels": None}})
    assert server.asked[-1][1]["content-type"] == "application/merge-patch+json"
    await api.replace(FUNCTION)
    assert server.asked[-1][0].startswith("PUT ")
    await api.create(FUNCTION)
    assert server.asked[-1][0].startswith("POST /apis/forebay.dev/v1alpha1/namespaces/ns/llmfunctions?")
    server.answer = json.dumps(
        {"items": [{"metadata": {"uid": uid, "resourceVersion": version}} for uid, version in ("a1", "b2")]}
    )
    assert await api.versions(KINDS.POD, "ns", "a=b") == {"a": "1", "b": "2"}
    assert server.asked[-1][0] == "GET /api/v1/namespaces/ns/pods?labelSelector=a%3Db HTTP/1.1"
    assert "PartialObjectMetadataList" in server.asked[-1][1]["accept"]


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (404, {"reason": "NotFound", "message": 'llmfunctions "f" not found'}, NotFound),
        (409, {"reason": "AlreadyExists", "message": "it is there"}, Conflict),
        (422, {"reason": "Invalid", "message": "spec.model.uri: wrong"}, ApiError),
        (403, {"reason": "Forbidden", "message": "no"}, ApiError),
        (500, {"reason": "", "message": "field not declared in schema"}, ApiError),
        (429, {"reason": "TooManyRequests", "message": "later"}, Unreachable),
        (503, "a proxy's own words", Unreachable),
    ],
)
async def test_how_it_says_no(api: Api, server: Server, status: int, answer: Any, expected: type[ApiError]) -> None:
    server.status = status
    server.answer = answer if isinstance(answer, str) else json.dumps({"kind": "Status", **answer})
    labels = {"verb": "get", "kind": "llmfunctions", "code": str(status)}
    before = REGISTRY.get_sample_value("forebay_api_requests_total", labels) or 0.0
    with pytest.raises(ApiError) as caught:
        await api.get(KINDS.FUNCTION, "ns", "f")
    assert type(caught.value) is expected
    assert caught.value.status == status
    assert caught.value.message == (answer if isinstance(answer, str) else answer["message"])
    assert REGISTRY.get_sample_value("forebay_api_requests_total", labels) == before + 1


async def test_nobody_answers(api: Api, server: Server) -> None:
    server.answer = None
    with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
        await Api(api._client, timeout=0.5).get(KINDS.FUNCTION, "ns", "f")
    await server.stop()
    with pytest.raises(Unreachable):
        await api.get(KINDS.FUNCTION, "ns", "f")


async def test_who_may_not_write_still_reads(api: Api, server: Server) -> None:
    allowed = [False]
    bound = api.while_true(lambda: allowed[0])
    calls = [
        lambda: bound.apply(FUNCTION),
        lambda: bound.create(FUNCTION),
        lambda: bound.replace(FUNCTION),
        lambda: bound.patch_merge(KINDS.POD, "ns", "p", {}),
        lambda: bound.delete(KINDS.POD, "ns", "p", uid="u"),
    ]
    for call in calls:
        with pytest.raises(Unreachable, match="another operator may lead by now"):
            await call()
    assert server.asked == []
    await bound.get(KINDS.FUNCTION, "ns", "f")
    await bound.versions(KINDS.POD)
    allowed[0] = True
    for call in calls:
        await call()
    assert len(server.asked) == 2 + len(calls)
