"""Where an answer goes over HTTP: a stream of events, or one body at the end."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from forebay_gateway import errors, sse
from forebay_gateway.ask import Accepted, Token
from forebay_gateway.ledger import Held
from forebay_gateway.openai.answer import Answer
from forebay_gateway.roster import Progress


class Streamed:
    """Server-sent events. The status 200 goes out with the first token, so that until then an error can be a status: a
    head takes requests long before its weights are there. Only a caller that asked for progress gets it sooner."""

    def __init__(
        self, request: web.Request, answer: Answer, headers: Mapping[str, str], *, wants_progress: bool
    ) -> None:
        self.wants_progress = wants_progress
        self._request = request
        self._answer = answer
        self._headers = headers
        self._response: web.StreamResponse | None = None

    async def progress(self, progress: Progress) -> None:
        percent = 100 * min(max(progress.fraction, 0.0), 1.0)
        text = f"forebay phase={progress.phase} percent={percent:.0f} eta={max(progress.eta, 0.0):.1f}"
        await (await self._begun()).write(sse.comment(text))

    async def accepted(self, prompt: int, accepted: Accepted) -> None:
        self._answer.accepted(prompt, accepted)

    async def token(self, prompt: int, token: Token) -> None:
        if chunks := self._answer.chunks(prompt, token):
            await (await self._begun()).write(b"".join(map(sse.data, chunks)))

    async def closed(self, prompt: int, token: Token) -> None:
        await (await self._begun()).write(sse.data(self._answer.closing_chunk(prompt, token)))

    async def finish(self) -> web.StreamResponse:
        response = await self._begun()
        usage = sse.data(self._answer.usage_chunk()) if self._answer.include_usage else b""
        await response.write(usage + sse.DONE)
        await response.write_eof()
        return response

    async def fail(self, error: errors.GatewayError) -> web.StreamResponse | None:
        """Tell of an error where the headers are out; None where it can still be a status."""
        if self._response is None:
            return None
        await self._response.write(sse.event("error", errors.body(error)))
        await self._response.write_eof()
        return self._response

    async def _begun(self) -> web.StreamResponse:
        if self._response is None:
            response = web.StreamResponse(headers={**sse.HEADERS, **self._headers})
            await response.prepare(self._request)
            self._response = response
        return self._response


class Collected:
    """One JSON body, when all is there. Until then it is ``held``, and may have ``limit`` bytes."""

    wants_progress = False

    def __init__(self, answer: Answer, headers: Mapping[str, str], held: Held, limit: int) -> None:
        self._answer = answer
        self._headers = headers
        self._held = held
        self._limit = limit
        self._bytes = 0

    async def progress(self, progress: Progress) -> None:
        """Nothing can be shown before the end."""

    async def accepted(self, prompt: int, accepted: Accepted) -> None:
        self._answer.accepted(prompt, accepted)

    async def token(self, prompt: int, token: Token) -> None:
        """Raises AnswerTooLarge and QueueFull."""
        nbytes = self._answer.collect(prompt, token)
        self._bytes += nbytes
        if self._bytes > self._limit:
            raise errors.AnswerTooLarge(
                f"the answer takes more than {self._limit} bytes at once: ask with stream: true, "
                "or for lower n, max_tokens or top_logprobs"
            )
        self._held.add(nbytes)

    async def closed(self, prompt: int, token: Token) -> None:
        self._answer.close(prompt, token)

    async def finish(self) -> web.StreamResponse:
        return json_response(self._answer.whole(), headers=self._headers)

    async def fail(self, error: errors.GatewayError) -> web.StreamResponse | None:
        return None


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers or {}
    )


def error_response(error: errors.GatewayError) -> web.Response:
    status = errors.STATUS[type(error)]
    response = json_response(errors.body(error), status=status.http, headers=errors.headers(error))
    if status.http in (408, 413):
        response.force_close()  # the rest of the body is nobody's
    return response
