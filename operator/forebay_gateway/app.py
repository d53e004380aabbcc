"""HTTP routes of the gateway: where a request goes, and what its caller sees when it fails."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog
from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from forebay_api.function import FunctionKey
from forebay_gateway import body, errors, locate
from forebay_gateway.ask import Ask, Kind
from forebay_gateway.config import GatewayConfig
from forebay_gateway.delivery import Collected, Streamed, error_response, json_response
from forebay_gateway.generation import Call
from forebay_gateway.ledger import Held, Ledger
from forebay_gateway.openai import request as openai_request
from forebay_gateway.openai.answer import Answer
from forebay_gateway.page import Page
from forebay_gateway.relay import Relay
from forebay_gateway.roster import Roster, Route
from forebay_gateway.waiting import Room, refusal
from forebay_process.release import shown

log = structlog.get_logger()

REQUESTS = Counter("forebay_requests_total", "Answered requests.", ["function", "code"])
DURATION = Histogram(
    "forebay_request_duration_seconds",
    "From the request's arrival to the end of its answer.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
)

TIME = Gauge(
    "forebay_gateway_time_seconds", "The gateway's clock. Whoever reads it knows that, and how often, it was asked."
)
TIME.set_function(time.time)

END_SECONDS = 5.0
"""For the last bytes of an answer, however little is left of its time."""

CLIENT_GONE = 499
"""Counted for a caller that left; nobody is there to be told."""

FUNCTION = web.RequestKey("function", str)
REQUEST_ID = web.RequestKey("request_id", str)
CODE = web.RequestKey("code", int)
TOLD = web.RequestKey("told", bool)
"""Whether a caller whose answer had begun was told that it will not end."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class App:
    """The handlers and what they need. ``leaving``: not ready any more, so that what is new goes elsewhere.
    ``closing``: refuse what comes new, while the rest is finished."""

    def __init__(self, config: GatewayConfig, roster: Roster, room: Room, relay: Relay, page: Page) -> None:
        self.leaving = False
        self.closing = False
        self.active: set[asyncio.Task[object]] = set()
        self._config = config
        self._roster = roster
        self._room = room
        self._relay = relay
        self._page = page
        self._ledger = Ledger(config.limits.held_bytes)
        self._metrics_shown = shown(config.metrics_release)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._middleware])
        for prefix in ("", "/{namespace}/{function}"):
            for kind, path in ((Kind.CHAT, "chat/completions"), (Kind.COMPLETION, "completions")):
                app.router.add_post(f"{prefix}/v1/{path}", self._invoke(kind), expect_handler=self._expect)
            app.router.add_get(f"{prefix}/v1/models", self._models)
            app.router.add_get(f"{prefix}/v1/models/{{model:.+}}", self._model)
        app.router.add_get("/", _to_ui)
        app.router.add_get("/ui", self._page.show)
        app.router.add_get("/ui/events", self._page.events)
        app.router.add_get("/health", _health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    def _invoke(self, kind: Kind) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            task = asyncio.current_task()
            assert task is not None
            self.active.add(task)
            task.add_done_callback(self.active.discard)
            address = self._address(request)
            with self._ledger.open(address if address in self._roster.functions else None) as held:
                # The body has no name here: it is gone once it is parsed.
                ask = openai_request.parse(kind, await body.read(request, held, self._config.limits))
                return await self._answer(request, ask, held)

        return handle

    async def _answer(self, request: web.Request, ask: Ask, held: Held) -> web.StreamResponse:
        route = await self._find(request, ask.model)
        request[FUNCTION] = str(route.key)
        if error := refusal(route.key, route):
            raise error
        locate.check_length(ask, route)
        held.become(ask.nbytes, route.key)
        cold = self._room.is_cold(route)
        answer = Answer(ask, request[REQUEST_ID], ask.model or route.model_name, int(time.time()))
        headers = _headers(request, ask, cold=cold)
        wants_progress = request.headers.get("X-Forebay-Progress", "").lower() == "true"
        sink: Streamed | Collected = (
            Streamed(request, answer, headers, wants_progress=wants_progress)
            if ask.stream
            else Collected(answer, headers, held, self._config.limits.answer_bytes)
        )
        call = Call(ask, route, request[REQUEST_ID], sink, cold)
        try:
            await self._relay.answer(call)
            return await _last(request, call.left, sink.finish())
        except errors.GatewayError as error:
            request[CODE] = errors.STATUS[type(error)].http
            if response := await _last(request, 0.0, sink.fail(error)):
                return response
            raise
        except asyncio.CancelledError:
            request[TOLD] = self.closing and bool(await _last(request, 0.0, sink.fail(_stopping())))
            raise

    async def _find(self, request: web.Request, model: str | None) -> Route:
        """Raises ModelNotFound, InvalidRequest, and NoCapacity while nobody has said which functions exist."""
        await self._first_table()
        return locate.find(self._roster, self._address(request), model)

    async def _first_table(self) -> None:
        """Raises NoCapacity: what is not known yet must not be taken for what does not exist."""
        if self._roster.arrived:
            return
        try:
            await self._roster.first_table(self._config.limits.table_seconds)
        except TimeoutError:
            raise errors.NoCapacity("the operator has not yet said which functions exist", retry_after=1) from None

    def _address(self, request: web.Request) -> FunctionKey | None:
        if "namespace" in request.match_info:
            return FunctionKey(request.match_info["namespace"], request.match_info["function"])
        return locate.by_host(request.host, self._config.domain)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        await self._first_table()
        return json_response({"object": "list", "data": locate.listed(self._roster, self._address(request))})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        route = await self._find(request, request.match_info["model"])
        return json_response(locate.described(self._roster, route))

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        ready = self._roster.arrived and not (self.leaving or self.closing)
        return web.Response(status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        page = generate_latest(self._metrics_shown)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """A caller that asks before it sends a large body is told before it does."""
        if (request.content_length or 0) > self._config.limits.body_bytes:
            return error_response(body.too_large(self._config.limits.body_bytes))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ids, metrics, and every error as an OpenAI error object."""
        began = time.monotonic()
        request[REQUEST_ID] = _request_id(request.headers.get("X-Request-Id", ""))
        invoked = request.method == hdrs.METH_POST
        code = CLIENT_GONE
        try:
            response = await self._guarded(request, handler)
            code = request.get(CODE, response.status)
        except ConnectionError:
            log.info("caller gone", request_id=request[REQUEST_ID], function=request.get(FUNCTION, ""))
            raise
        finally:
            if invoked:
                REQUESTS.labels(request.get(FUNCTION, ""), str(code)).inc()
                DURATION.observe(time.monotonic() - began)
        if not response.prepared:
            response.headers["X-Request-Id"] = request[REQUEST_ID]
            if self.leaving or self.closing:
                response.force_close()
        return response

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if self.closing:
                raise _stopping()
            return await handler(request)
        except errors.GatewayError as error:
            return error_response(error)
        except web.HTTPMethodNotAllowed as error:
            message = f"{request.path} takes no {request.method}"
            return error_response(errors.MethodNotAllowed(message, frozenset(error.allowed_methods)))
        except web.HTTPNotFound:
            return error_response(errors.PathNotFound(f"there is nothing at {request.path}"))
        except (web.HTTPException, ConnectionError):
            raise
        except asyncio.CancelledError:
            if not self.closing or request.get(TOLD) or request.transport is None:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # it is not the caller who left: the drain is over, and the caller is to know why
            return error_response(_stopping())
        except Exception:  # the border: whatever is wrong with us, the caller gets an answer
            log.exception("request failed", request_id=request[REQUEST_ID], function=request.get(FUNCTION, ""))
            return error_response(errors.Broken("the gateway failed; its log says more"))


def _request_id(given: str) -> str:
    return given if re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", given) else uuid.uuid4().hex


async def _last(request: web.Request, seconds: float, writing: Awaitable[T]) -> T:
    """The end of an answer. A caller that does not read it is not waited for longer than it had anyway; raises
    ConnectionError."""
    try:
        async with asyncio.timeout(max(seconds, END_SECONDS)):
            return await writing
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionAbortedError("the caller does not read the end of its answer") from None


def _headers(request: web.Request, ask: Ask, *, cold: bool) -> Mapping[str, str]:
    headers = {"X-Request-Id": request[REQUEST_ID]}
    if cold:
        headers["x-forebay-cold-start"] = "true"
    # A caller's own words go into a header only where they cannot be taken for anything else.
    shown = [name for name in ask.ignored if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)][:32]
    if shown:
        headers["X-Forebay-Ignored"] = ", ".join(shown)
    return headers


def _stopping() -> errors.NoCapacity:
    return errors.NoCapacity("this gateway stops", retry_after=1)


async def _to_ui(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/ui")


async def _health(request: web.Request) -> web.StreamResponse:
    return web.Response()
