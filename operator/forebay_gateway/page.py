"""``/ui``: one page and its live data, the operator's view as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from importlib import resources

import grpc
import msgspec
from aiohttp import web

from forebay_gateway import errors, sse
from forebay_gateway.uplink import Uplink
from forebay_wire.v1 import view_pb2, view_pb2_grpc

MAX_VIEWERS = 64
KEEP_ALIVE_SECONDS = 15.0


class Page:
    """Watches the operator's view only while somebody looks. ``gone`` is told to the page, with the last view kept."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._html = resources.files("forebay_gateway").joinpath("page.html").read_text()
        self._headers = {
            "Content-Security-Policy": policy(self._html),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        self._viewers: set[asyncio.Event] = set()
        self._watch: asyncio.Task[None] | None = None
        self._latest = ""
        self._away = True
        self._closing = False

    async def show(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._html, content_type="text/html", headers=self._headers)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Every change, as far as the viewer keeps up: one that is slow misses what is out of date."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise errors.QueueFull(f"{MAX_VIEWERS} viewers already watch this page", retry_after=5)
        response = web.StreamResponse(headers=sse.HEADERS)
        await response.prepare(request)
        changed = asyncio.Event()
        if self._latest:
            changed.set()
        self._viewers.add(changed)
        self._start()
        try:
            while not self._closing:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    await response.write(sse.comment("alive"))
                    continue
                changed.clear()
                await response.write(self._present())
        finally:
            self._viewers.discard(changed)
            self._stop_unwatched()
        return response

    async def close(self) -> None:
        """End the streams of all viewers."""
        self._closing = True
        self._wake()
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def _present(self) -> bytes:
        state = sse.event("operator", {"away": self._away})
        return state + sse.raw_event("view", self._latest) if self._latest else state

    def _start(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._uplink.keep("view", self._follow))

    def _stop_unwatched(self) -> None:
        if not self._viewers and self._watch:
            self._watch.cancel()
            self._watch = None
            self._away = True

    async def _follow(self, channel: grpc.aio.Channel, answered: Callable[[], None]) -> None:
        try:
            async for snapshot in view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest()):
                answered()
                # One line: what is on the wire may be indented.
                self._latest = msgspec.json.format(snapshot.json, indent=-1)
                self._away = False
                self._wake()
        finally:
            self._away = True
            self._wake()

    def _wake(self) -> None:
        for changed in self._viewers:
            changed.set()


def policy(html: str) -> str:
    """A policy that allows this page's own script and style, by their hashes, and nothing from anywhere else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in found
        )

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
