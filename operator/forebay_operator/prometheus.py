"""A client of Prometheus' HTTP API. What goes wrong is told in the words of conditions, here and nowhere else."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from forebay_api.conditions import Reason
from forebay_operator.config import PrometheusConfig
from forebay_operator.decide.samples import Answer, Series, Trouble

logging.getLogger("httpx2").setLevel(logging.WARNING)  # else it tells of every query

ANSWER_BYTES = 32 << 20
"""Longer answers are not read: 1000 functions over an hour are a fifth of it."""

BLOCKING_BYTES = 1 << 20
"""Longer ones are parsed beside the loop."""

MESSAGE_LENGTH = 500
TOKEN = re.compile(r"[\x21-\x7e]+")


class Troubled(Exception):
    """A query that gave nothing; ``trouble`` says why. Never carries credentials."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.trouble = Trouble(reason, message[:MESSAGE_LENGTH])


class Prometheus:
    """To be entered and left. Credentials and authorities are read anew for each query: Secrets rotate."""

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._authorities: bytes | None = None
        self._client: httpx2.AsyncClient | None = None
        self._former: httpx2.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"<Prometheus {self._config.url}>"

    async def __aenter__(self) -> Prometheus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in (self._client, self._former):
            if client is not None:
                await client.aclose()
        self._client = self._former = None

    async def query(self, text: str) -> Answer:
        """At Prometheus' own now. Raises Troubled."""
        return await self._ask("query", {"query": text})

    async def query_range(self, text: str, start: float, end: float, step: float) -> Answer:
        """From ``start`` to ``end`` (unix seconds), every ``step`` seconds. Raises Troubled."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return await self._ask("query_range", {"query": text, **times})

    async def _ask(self, what: str, form: Mapping[str, str]) -> Answer:
        config = self._config
        try:
            async with asyncio.timeout(config.timeout):
                client = await self._opened()
                status, body = await self._post(client, what, {**form, "timeout": f"{config.timeout * 1000:.0f}ms"})
                said = await _parsed(body)
        except TimeoutError:
            raise Troubled(
                Reason.PROMETHEUS_TIMEOUT, f"{config.url} did not answer within {config.timeout:g} s"
            ) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            why = str(error) or type(error).__name__
            raise Troubled(Reason.PROMETHEUS_UNREACHABLE, f"{config.url}: {why}") from None
        if status != 200:
            raise _refused(config.url, status, said)
        return _answer(config.url, said)

    async def _post(self, client: httpx2.AsyncClient, what: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        url = f"{self._config.url}/api/v1/{what}"
        request = client.build_request("POST", url, data=dict(form), headers=self._bearer())
        response = await client.send(request, stream=True, auth=self._basic(), follow_redirects=False)
        try:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > ANSWER_BYTES:
                    raise Troubled(
                        Reason.QUERY_INVALID, f"the answer is longer than {ANSWER_BYTES >> 20} MiB: sum up in the query"
                    )
            return response.status_code, bytes(body)
        finally:
            await response.aclose()

    async def _opened(self) -> httpx2.AsyncClient:
        authorities = _read(self._config.ca_file, Reason.PROMETHEUS_UNREACHABLE) if self._config.ca_file else b""
        if self._client is not None and authorities == self._authorities:
            return self._client
        context = _context(authorities, self._config.ca_file)
        # The former one may still be in use; the one before is not: no query takes that long.
        gone, self._former = self._former, self._client
        self._authorities = authorities
        client = self._client = httpx2.AsyncClient(verify=context, timeout=None, trust_env=False)
        if gone is not None:
            await gone.aclose()
        return client

    def _bearer(self) -> dict[str, str]:
        file = self._config.token_file
        return {"Authorization": f"Bearer {_token(file)}"} if file else {}

    def _basic(self) -> httpx2.BasicAuth | None:
        config = self._config
        if not config.username_file or not config.password_file:
            return None
        return httpx2.BasicAuth(_credential(config.username_file), _credential(config.password_file))


def _read(path: Path, reason: Reason = Reason.PROMETHEUS_UNAUTHORIZED) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Troubled(reason, f"{path}: {error.strerror or 'cannot be read'}") from None


def _credential(path: Path) -> str:
    text = _read(path).decode("utf-8", "replace").rstrip("\r\n")
    if not text:
        raise Troubled(Reason.PROMETHEUS_UNAUTHORIZED, f"{path} is empty")
    return text


def _token(path: Path) -> str:
    text = _credential(path).strip()
    if not TOKEN.fullmatch(text):  # else the client would quote it in its complaint
        raise Troubled(Reason.PROMETHEUS_UNAUTHORIZED, f"{path}: expected one line of ASCII without spaces")
    return text


def _context(authorities: bytes, path: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authorities.decode("ascii") if path else None)
    except (ssl.SSLError, ValueError):
        raise Troubled(Reason.PROMETHEUS_UNREACHABLE, f"{path}: expected certificates in PEM") from None


async def _parsed(body: bytes) -> object:
    """None for what is no JSON."""
    try:
        return json.loads(body) if len(body) < BLOCKING_BYTES else await asyncio.to_thread(json.loads, body)
    except ValueError:
        return None


def _refused(url: str, status: int, said: object) -> Troubled:
    words = said if isinstance(said, dict) else {}
    kind, text = str(words.get("errorType", "")), str(words.get("error", ""))
    if status in (401, 403):
        return Troubled(Reason.PROMETHEUS_UNAUTHORIZED, f"{url} refuses our credentials ({status})")
    if kind in ("bad_data", "execution") or (text and status in (400, 422)):  # the latter by those who speak like it
        return Troubled(Reason.QUERY_INVALID, text)
    if kind in ("timeout", "canceled") or status == 504:
        return Troubled(Reason.PROMETHEUS_TIMEOUT, f"{url} gave up on the query: {text or status}")
    if 300 <= status < 400:
        return Troubled(Reason.PROMETHEUS_UNREACHABLE, f"{url} redirects ({status}), which is not followed")
    return Troubled(Reason.PROMETHEUS_UNREACHABLE, f"{url} answers {status}{text and f': {text}'}")


def _answer(url: str, said: Any) -> Answer:
    """Raises Troubled."""
    try:
        if said["status"] != "success":
            raise ValueError(said["status"])
        # Of a query over several stores: one of them did not answer. PromQL's own remarks do no harm.
        if missing := [text for text in said.get("warnings", ()) if not str(text).startswith("PromQL ")]:
            raise Troubled(Reason.PARTIAL_SAMPLES, f"{url} warns: {missing[0]}")
        kind, result = str(said["data"]["resultType"]), said["data"]["result"]
        if kind == "scalar":
            return Answer(kind, (Series({}, (_point(result),)),))
        if kind == "string":
            return Answer(kind, ())
        return Answer(kind, tuple(_series(kind, series) for series in result))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise Troubled(Reason.PROMETHEUS_UNREACHABLE, f"{url} answers what is no answer of Prometheus' API") from None


def _series(kind: str, said: Any) -> Series:
    labels = {str(name): str(value) for name, value in said["metric"].items()}
    points = said["values"] if kind == "matrix" else [said["value"]]
    return Series(labels, tuple(_point(point) for point in points))


def _point(said: Any) -> tuple[float, float]:
    at, value = said
    return float(at), float(value)
