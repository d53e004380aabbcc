"""Heads of pipelines: channels to them, and one Generate as a stream of our own words."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

import grpc

from forebay_channel import Identity, InvalidIdentity, Role, open_channel
from forebay_gateway import errors
from forebay_gateway.ask import Accepted, Messages, Prompt, Sampling, Text, Token, TokenIds, TopLogprob
from forebay_gateway.pick import Pipeline
from forebay_gateway.tokens import TokenLog
from forebay_wire.v1 import engine_pb2, engine_pb2_grpc, model_pb2

SILENCE_SECONDS = 3.0
"""Heads send a heartbeat every second; one that is silent for this long is taken for dead."""

MESSAGE_BYTES = 64 << 20
AGAIN_MS = 50
CONNECT_MS = 1000
"""For a handshake with a machine that is busy."""

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A worker that was forked anew listens at its old address: an earlier failure must not hold us back.
    ("grpc.initial_reconnect_backoff_ms", AGAIN_MS),
    ("grpc.max_reconnect_backoff_ms", 10 * AGAIN_MS),
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),  # in spite of its name: how long one attempt may take
    ("grpc.use_local_subchannel_pool", 1),
)

Call = grpc.aio.UnaryStreamCall[engine_pb2.GenerateRequest, engine_pb2.GenerateEvent]

REASON_KEY = "forebay-reason"


class Fault(StrEnum):
    """Why a head did not finish a generation, through no fault of the caller."""

    UNKNOWN = "pipeline_unknown"
    DRAINING = "pipeline_draining"
    FULL = "head_full"
    GONE = "pipeline_gone"
    AWAY = "head_unreachable"  # it has heard nothing of the request
    LOST = "head_lost"  # the connection broke
    SILENT = "silent"
    SLOW = "slow_consumer"  # our caller reads so slowly that the head gave up
    BROKEN = "broken"  # it failed in a way that it may fail again


class HeadFailed(Exception):
    """To be continued elsewhere."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(f"{fault}: {message}")
        self.fault = fault


FAULTS: Mapping[tuple[grpc.StatusCode, str], Fault] = {
    (grpc.StatusCode.FAILED_PRECONDITION, "pipeline_unknown"): Fault.UNKNOWN,
    (grpc.StatusCode.FAILED_PRECONDITION, "pipeline_draining"): Fault.DRAINING,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "head_full"): Fault.FULL,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow_consumer"): Fault.SLOW,
    (grpc.StatusCode.UNAVAILABLE, "pipeline_gone"): Fault.GONE,
    (grpc.StatusCode.UNAVAILABLE, ""): Fault.LOST,
    (grpc.StatusCode.CANCELLED, ""): Fault.LOST,
}

UNCONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")
"""How gRPC's words begin where there was no connection. There is no other sign of it: the code is that of one that
broke."""

CALLERS_FAULT: Mapping[tuple[grpc.StatusCode, str], type[errors.CallerError]] = {
    (grpc.StatusCode.INVALID_ARGUMENT, "context_length_exceeded"): errors.ContextTooLong,
    (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"): errors.InvalidRequest,
    # gRPC itself: the message is larger than the head takes.
    (grpc.StatusCode.RESOURCE_EXHAUSTED, ""): errors.BodyTooLarge,
}


@dataclass(slots=True)
class Line:
    """A channel, and the generations that run on it."""

    channel: grpc.aio.Channel
    users: int = 0


class Heads:
    """Lines by address: opened at need, forgotten when one fails or is routed no longer, closed when unused."""

    def __init__(self, identity: Identity | None = None) -> None:
        self._identity = identity
        self._lines: dict[str, Line] = {}

    async def generate(
        self, pipeline: Pipeline, request: engine_pb2.GenerateRequest
    ) -> AsyncGenerator[Accepted | Token]:
        """Events as they come; the end of the iteration is the end of the generation.

        Raises HeadFailed, and CallerError where the head refuses the request. Closing the iterator cancels the call.
        """
        target = address(pipeline)
        line = self._lines.get(target) or self._lines.setdefault(target, self._open(target))
        line.users += 1
        call = engine_pb2_grpc.EngineStub(line.channel).Generate(request)
        try:
            while (event := await _next(call)) is not None:
                match event.WhichOneof("event"):
                    case "token":
                        yield _token(event.token)
                    case "accepted":
                        yield Accepted(event.accepted.prompt_tokens)
        except errors.CallerError as refusal:
            refusal.param = _param(refusal.message, request)
            raise
        except HeadFailed as failure:
            if failure.fault in (Fault.AWAY, Fault.LOST, Fault.SILENT) and self._lines.get(target) is line:
                del self._lines[target]
            raise
        finally:
            call.cancel()
            line.users -= 1
            if not line.users and self._lines.get(target) is not line:
                await line.channel.close()

    async def keep_only(self, targets: Collection[str]) -> None:
        """Forget the lines to other addresses; what runs on them goes on."""
        gone = [self._lines.pop(target) for target in self._lines.keys() - set(targets)]
        for line in gone:
            if not line.users:
                await line.channel.close()

    async def close(self) -> None:
        await self.keep_only(())

    def _open(self, target: str) -> Line:
        """Raises HeadFailed."""
        try:
            return Line(open_channel(target, OPTIONS, identity=self._identity, role=Role.WORKER))
        except InvalidIdentity as error:
            raise HeadFailed(Fault.AWAY, str(error)) from error


def address(pipeline: Pipeline) -> str:
    """The socket where this process can reach its folder, else the network."""
    if pipeline.engine_unix and (not pipeline.engine_tcp or os.path.exists(pipeline.engine_unix)):
        return f"unix:{pipeline.engine_unix}"
    return pipeline.engine_tcp


def request(
    prompt: Prompt,
    sampling: Sampling,
    pipeline: Pipeline,
    *,
    request_id: str,
    function: str,
    adapter: str,
    log: TokenLog,
) -> engine_pb2.GenerateRequest:
    """What is asked of a head: the prompt, and the tokens that the gateway already has."""
    wire = engine_pb2.GenerateRequest(
        request_id=request_id,
        epoch=model_pb2.Epoch(term=pipeline.epoch.term, counter=pipeline.epoch.counter),
        backbone=pipeline.backbone,
        adapter=adapter,
        sampling=_sampling(sampling),
        function=function,
        resumed=[
            engine_pb2.Resumed(choice=index, tokens=choice.tokens, finished=choice.finished)
            for index, choice in enumerate(log.choices)
            if choice.tokens
        ],
    )
    match prompt:
        case Text(text):
            wire.text = text
        case Messages(json, template):
            wire.messages_json, wire.template_json = json, template
        case TokenIds(ids):
            wire.token_ids.ids.extend(ids)
    return wire


async def _next(call: Call) -> engine_pb2.GenerateEvent | None:
    """The next event; None at the end. Raises HeadFailed and CallerError."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            event = await call.read()
    except TimeoutError:
        raise HeadFailed(Fault.SILENT, f"nothing for {SILENCE_SECONDS:g} s") from None
    except asyncio.CancelledError:
        # grpc raises this, too, for a call that the other side cancelled.
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise HeadFailed(Fault.LOST, "cancelled by the head") from None
    except grpc.aio.AioRpcError as error:
        raise _failure(error) from error
    return event if isinstance(event, engine_pb2.GenerateEvent) else None


def _failure(error: grpc.aio.AioRpcError) -> HeadFailed | errors.CallerError:
    metadata = error.trailing_metadata()
    found = str(metadata.get(REASON_KEY, "")) if metadata is not None else ""
    details = error.details() or error.code().name
    if refusal := CALLERS_FAULT.get((error.code(), found)):
        return refusal(details)
    fault = FAULTS.get((error.code(), found), Fault.BROKEN)
    return HeadFailed(Fault.AWAY if fault is Fault.LOST and details.startswith(UNCONNECTED) else fault, details)


def _param(message: str, request: engine_pb2.GenerateRequest) -> str | None:
    """The field that a head's refusal begins with, in the caller's words."""
    field = message.partition(":")[0]
    if field == "prompt" and request.HasField("messages_json"):
        return "messages"
    return field if re.fullmatch(r"[a-z_]+(\[\d+\])?", field) else None


def _sampling(sampling: Sampling) -> engine_pb2.Sampling:
    return engine_pb2.Sampling(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        stop=sampling.stop,
        ignore_eos=sampling.ignore_eos,
        seed=sampling.seed,
        n=sampling.n,
        logprobs=sampling.logprobs,
        top_logprobs=sampling.top_logprobs,
        logit_bias=sampling.logit_bias,
    )


def _token(wire: engine_pb2.Token) -> Token:
    return Token(
        choice=wire.choice,
        index=wire.index,
        token=wire.token,
        text=wire.text,
        finish=wire.finish,
        logprob=wire.logprob,
        top=tuple(TopLogprob(entry.text, entry.logprob, entry.raw) for entry in wire.top),
        piece=wire.piece,
        raw=wire.raw,
        cached_tokens=wire.cached_tokens,
    )
