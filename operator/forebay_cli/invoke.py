"""One chat from the shell: streamed, with the cold start's progress while it waits."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp


class InvokeFailed(Exception):
    """The gateway refused the request or broke it off. The text is its message."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A cold start under way: percent of the bytes that the first token needs, seconds left as predicted."""

    phase: str
    percent: float
    eta: float


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, ``after`` seconds from sending the request."""

    text: str
    after: float


_PROGRESS = re.compile(r": forebay phase=(\w+) percent=([\d.]+) eta=([\d.]+)")


_FUNCTION = re.compile(r"([a-z0-9-]+/)?[a-z0-9-]+")


def path_of(function: str) -> str:
    """``name`` or ``namespace/name`` as a path of the gateway. Raises InvokeFailed for what is neither."""
    if not _FUNCTION.fullmatch(function):
        raise InvokeFailed(f"{function!r} names no function: expected NAME or NAMESPACE/NAME")
    namespace, slash, name = function.rpartition("/")
    return f"/{namespace if slash else 'default'}/{name}"


async def invoke(
    gateway: str, function: str, prompt: str, *, max_tokens: int | None = None
) -> AsyncIterator[Waiting | Text]:
    """Ask ``function`` behind ``gateway`` (base URL). Raises InvokeFailed."""
    body: dict[str, object] = {
        "model": function,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    url = f"{gateway}{path_of(function)}/v1/chat/completions"
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=body, headers={"X-Forebay-Progress": "true"}) as response,
        ):
            if response.status != 200:
                raise InvokeFailed(_message(await response.text()))
            async for line in response.content:
                if event := _event(line.decode().rstrip("\r\n"), began):
                    yield event
    except aiohttp.ClientError as error:
        raise InvokeFailed(f"{url}: {error}") from error


def _event(line: str, began: float) -> Waiting | Text | None:
    if match := _PROGRESS.match(line):
        return Waiting(match[1], float(match[2]), float(match[3]))
    data = line.removeprefix("data: ")
    if data == line or data == "[DONE]":
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        raise InvokeFailed(str(chunk["error"]["message"]))
    text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return Text(text, time.monotonic() - began) if text else None


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip() or "the gateway sent no reason"
