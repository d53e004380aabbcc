"""Stands between an operator and its Prometheus, and breaks what passes as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import ClientConnectionError, ClientSession, web

from local.system import free_port

Fault = Callable[[web.Request, bytes, int], "web.Response | bytes"]


class Proxy:
    """``fault(request, body, status)`` makes of a true answer what is given instead. ``token``: demanded of whoever
    asks."""

    def __init__(self, upstream: str) -> None:
        self.port = free_port()
        self.fault: Fault | None = None
        self.delay = 0.0
        self.token: str | None = None
        self.asked: list[dict[str, str]] = []
        self.authorized: list[str] = []
        self._upstream = upstream
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _pass(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append({"path": request.path, **form})
        self.authorized.append(request.headers.get("Authorization", ""))
        if self.token is not None and self.authorized[-1] != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized")
        await asyncio.sleep(self.delay)
        try:
            async with (
                ClientSession() as http,
                http.post(f"{self._upstream}{request.path}", data=form) as answer,
            ):
                status, body = answer.status, await answer.read()
        except ClientConnectionError:  # nobody there: whoever asks hears no more of it than if we were not
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
        found = self.fault(request, body, status) if self.fault else body
        if isinstance(found, web.Response):
            return found
        return web.Response(body=found, status=status, content_type="application/json")


def truncated(request: web.Request, body: bytes, status: int) -> bytes:
    return body[: len(body) // 2]


def refused(status: int, **headers: str) -> Fault:
    return lambda request, body, _: web.Response(status=status, text="no", headers=headers)


def in_error(status: int, kind: str, text: str) -> Fault:
    said = {"status": "error", "errorType": kind, "error": text}
    return lambda request, body, _: web.json_response(said, status=status)


def html(request: web.Request, body: bytes, status: int) -> web.Response:
    return web.Response(text="<html>log in</html>", content_type="text/html")


def warning(request: web.Request, body: bytes, status: int) -> bytes:
    return json.dumps({**json.loads(body), "warnings": ["a store did not answer"]}).encode()


def with_values(change: Callable[[dict[str, str], float], float], later: float = 0.0) -> Fault:
    """Values changed by what they are (labels, value), and the moment of the answer moved by ``later`` seconds."""

    def fault(request: web.Request, body: bytes, status: int) -> bytes:
        said: dict[str, Any] = json.loads(body)
        for series in said["data"]["result"]:
            points = series["values"] if "values" in series else [series["value"]]
            for point in points:
                point[1] = str(change(series["metric"], float(point[1])))
                point[0] += later
        return json.dumps(said).encode()

    return fault
