"""Engine over gRPC: a gateway's request in, the head's tokens out. No logic of serving lives here.

device thread ── events ──▶ Outbox ──▶ Generate ──▶ gateway
                              └ bounded: a gateway that reads too slowly loses its request, never the device's time
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from prometheus_client import Counter, Gauge

from forebay_api.model import Epoch
from forebay_wire.v1 import engine_pb2, engine_pb2_grpc
from forebay_worker.engine.request import Accepted, Ended, Event, Refused, Request, Resumed, TokenOut
from forebay_worker.engine.sample import Params
from forebay_worker.engine.text import ChatError, TooLong
from forebay_worker.model.generation import Defaults
from forebay_worker.reading import Overdue, Reading
from forebay_worker.shelf import Parts
from forebay_worker.stage import Executor

log = structlog.get_logger(__name__)

REASON_KEY = "forebay-reason"
HEARTBEAT_SECONDS = 1.0
OUTBOX_EVENTS = 4096
"""Tokens that may wait for a slow reader; some hundreds of kB."""
MOST_STOPS = 64

OPTIONAL = tuple(field.name for field in fields(Defaults))

SLOW_CONSUMER = "slow_consumer"
STATUS = {
    Refused.CONTEXT_LENGTH_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    Refused.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Refused.PIPELINE_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    Refused.PIPELINE_DRAINING: grpc.StatusCode.FAILED_PRECONDITION,
    Refused.PIPELINE_GONE: grpc.StatusCode.UNAVAILABLE,
    Refused.HEAD_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refused.CANCELLED: grpc.StatusCode.CANCELLED,
}

slow_total = Counter("forebay_slow_consumers_total", "Requests ended because their stream was read too slowly")
open_gauge = Gauge("forebay_generate_streams", "Generate streams open")

Context: TypeAlias = "grpc.aio.ServicerContext[engine_pb2.GenerateRequest, engine_pb2.GenerateEvent]"


class InvalidRequest(ValueError):
    """The caller's fault; the text names the field."""


class Outbox:
    """Events of one request on their way to its stream. ``overflow`` is called at most once, on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, overflow: Callable[[], None]) -> None:
        self._loop = loop
        self._overflow = overflow
        self._events: deque[Event] = deque()
        self._filled = asyncio.Event()
        self.overflown = False

    def put(self, event: Event) -> None:
        """From any thread; never blocks."""
        self._loop.call_soon_threadsafe(self._put, event)

    async def get(self) -> Event | None:
        """The next event; None when none came for a heartbeat's time."""
        if not self._events and not self.overflown:
            self._filled.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._filled.wait()
            except TimeoutError:
                return None
        if self.overflown:
            return Ended(Refused.CANCELLED)
        return self._events.popleft()

    def _put(self, event: Event) -> None:
        if self.overflown:
            return
        if len(self._events) >= OUTBOX_EVENTS:
            self.overflown = True
            self._events.clear()
            slow_total.inc()
            self._overflow()
        else:
            self._events.append(event)
        self._filled.set()


class EngineService(engine_pb2_grpc.EngineServicer):
    """``parts`` finds what is prepared of a backbone; ``draining`` says whether new requests go elsewhere."""

    def __init__(self, executor: Executor, parts: Callable[[str], Parts | None], draining: Callable[[], bool]) -> None:
        self._executor = executor
        self._parts = parts
        self._draining = draining
        self._reading = Reading()
        self._open: set[str] = set()

    async def Generate(
        self, ask: engine_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[engine_pb2.GenerateEvent]:
        if self._draining():
            await _abort(context, Refused.PIPELINE_DRAINING, "this worker is stopping")
        parts = self._parts(ask.backbone)
        if parts is None:
            await _abort(context, Refused.PIPELINE_UNKNOWN, f"backbone {ask.backbone} is not prepared here")
        reading = asyncio.ensure_future(self._read(ask, parts))
        try:
            while not (await asyncio.wait((reading,), timeout=HEARTBEAT_SECONDS))[0]:
                yield engine_pb2.GenerateEvent(heartbeat=engine_pb2.Heartbeat())
            request = reading.result()
        except TooLong as error:
            await _abort(context, Refused.CONTEXT_LENGTH_EXCEEDED, str(error))
        except (InvalidRequest, ChatError, Overdue) as error:
            await _abort(context, Refused.INVALID_REQUEST, str(error))
        finally:
            reading.cancel()
        self._open.add(request.request_id)
        open_gauge.inc()
        loop = asyncio.get_running_loop()
        outbox = Outbox(loop, lambda: self._executor.cancel(request.request_id))
        self._executor.submit(Epoch(ask.epoch.term, ask.epoch.counter), request, outbox.put)
        event: Event | None = None
        try:
            while not isinstance(event := await outbox.get(), Ended):
                yield _message(event)
        finally:
            if not isinstance(event, Ended):  # the gateway is gone
                self._executor.cancel(request.request_id)
            self._open.discard(request.request_id)
            open_gauge.dec()
        if outbox.overflown:
            await _abort_slow(context)
        if event.reason:
            await _abort(context, event.reason, event.message)

    async def _read(self, ask: engine_pb2.GenerateRequest, parts: Parts) -> Request:
        """Raises InvalidRequest, ChatError, TooLong and Overdue."""
        _check(ask)
        read, text, limit = self._reading.read, parts.text, parts.checkpoint.model.max_model_len
        match ask.WhichOneof("prompt"):
            case "text":
                prompt = await read(ask.backbone, partial(text.encode_text, ask.text, limit))
            case "messages_json":
                messages, more = _messages(ask.messages_json), _template(ask.template_json)
                prompt = await read(ask.backbone, partial(text.encode_chat, messages, limit, more))
            case "token_ids":
                prompt = list(ask.token_ids.ids)
            case _:
                raise InvalidRequest("prompt: missing; one of text, messages_json and token_ids")
        return Request(
            request_id=self._unique(ask.request_id),
            function=ask.function,
            prompt=tuple(prompt),
            params=_params(ask.sampling, text.sampling),
            n=ask.sampling.n or 1,
            max_tokens=ask.sampling.max_tokens,
            stop=tuple(ask.sampling.stop),
            ignore_eos=ask.sampling.ignore_eos,
            resumed={each.choice: Resumed(tuple(each.tokens), each.finished) for each in ask.resumed},
            adapter=ask.adapter,
        )

    def _unique(self, request_id: str) -> str:
        """A gateway may come again before its first stream was seen to end: that one's end is not to be this one's."""
        names = (f"{request_id}~{count}" if count else request_id for count in itertools.count())
        return next(name for name in names if name not in self._open)


def _params(sampling: engine_pb2.Sampling, defaults: Defaults) -> Params:
    """What the caller says counts, else what the model does: so it is the same wherever a request goes on."""
    said = {name: getattr(sampling if sampling.HasField(name) else defaults, name) for name in OPTIONAL}
    return Params(
        **said,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        min_tokens=sampling.min_tokens,
        logit_bias=tuple(sorted(sampling.logit_bias.items())),
        seed=sampling.seed,
        logprobs=sampling.logprobs,
        top_logprobs=sampling.top_logprobs,
    )


def _check(ask: engine_pb2.GenerateRequest) -> None:
    """What the head takes for granted; it looks at all the rest itself. Raises InvalidRequest."""
    stops, choices = ask.sampling.stop, ask.sampling.n or 1
    if len(stops) > MOST_STOPS or not all(stops):
        raise InvalidRequest(f"stop: at most {MOST_STOPS} strings, none of them empty")
    if any(each.choice >= choices for each in ask.resumed):
        raise InvalidRequest(f"resumed: a choice beyond n = {choices}")


def _messages(text: str) -> list[dict[str, Any]]:
    """What a chat template can be given. Raises InvalidRequest."""
    try:
        messages = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"messages: not JSON ({error})") from None
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: must be a list with at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(f"messages[{index}]: must be an object with a role, such as user, and content")
    return messages


def _template(text: str) -> dict[str, Any]:
    """What a chat template is given besides messages. Raises InvalidRequest."""
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise InvalidRequest(f"chat_template_kwargs: not JSON ({error})") from None
    if not isinstance(found, dict) or any(isinstance(value, dict | list) for value in found.values()):
        raise InvalidRequest("chat_template_kwargs: must be an object of strings, numbers, booleans and null")
    return found


def _message(event: Accepted | TokenOut | None) -> engine_pb2.GenerateEvent:
    match event:
        case None:
            return engine_pb2.GenerateEvent(heartbeat=engine_pb2.Heartbeat())
        case Accepted():
            return engine_pb2.GenerateEvent(accepted=engine_pb2.Accepted(prompt_tokens=event.prompt_tokens))
    token = engine_pb2.Token(
        choice=event.choice,
        index=event.index,
        token=event.token,
        text=event.text,
        logprob=event.logprob,
        finish=event.finish,
        cached_tokens=event.cached_tokens,
        piece=event.piece,
        raw=event.raw,
        top=[
            engine_pb2.TopLogprob(token=other.token, text=other.text, logprob=other.logprob, raw=other.raw)
            for other in event.top
        ],
    )
    return engine_pb2.GenerateEvent(token=token)


async def _abort(context: Context, reason: Refused, message: str) -> NoReturn:
    await context.abort(STATUS[reason], message, ((REASON_KEY, reason.value),))


async def _abort_slow(context: Context) -> NoReturn:
    message = f"the stream was read too slowly: over {OUTBOX_EVENTS} tokens waited"
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message, ((REASON_KEY, SLOW_CONSUMER),))
