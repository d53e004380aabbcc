"""One request's life: wait, pick, stream, continue elsewhere.

    ┌──────────── HeadFailed: the pipeline is left alone, the log goes along ◀───────────┐
    ▼                                                                                    │
  seat.pipeline() ──▶ heads.generate(prompt + tokens so far) ──▶ TokenLog.take ──▶ sink ─┴─▶ all choices finished

The log is what makes a continuation exact: the next head replays it, and every token is delivered once, by its index.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine

import structlog
from prometheus_client import Counter, Histogram

from forebay_gateway import errors, heads
from forebay_gateway.ask import Accepted, Token
from forebay_gateway.generation import Call, Generation, generations
from forebay_gateway.heads import Fault, HeadFailed, Heads
from forebay_gateway.pick import Pipeline
from forebay_gateway.report import Reporter
from forebay_gateway.roster import Progress, Roster
from forebay_gateway.seat import Regime, Seat
from forebay_gateway.tokens import Gap
from forebay_gateway.waiting import Room
from forebay_wire.v1 import demand_pb2, model_pb2

log = structlog.get_logger()

FIRST_TOKEN = Histogram(
    "forebay_time_to_first_token_seconds",
    "From the request's arrival to its first token; cold: it waited for weights.",
    ["cold"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320),
)
BETWEEN_TOKENS = Histogram(
    "forebay_inter_token_latency_seconds",
    "Between two tokens of a choice.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10),
)
CONTINUATIONS = Counter("forebay_continuations_total", "Generations that went to another pipeline.", ["reason"])
for _cold in ("true", "false"):
    FIRST_TOKEN.labels(_cold)  # from the start: a rate sees no rise where there was nothing before
for _fault in Fault:
    CONTINUATIONS.labels(_fault.value)

MAX_BROKEN = 3
"""A head that fails without dying, on a request that got no token in between, is asked this often: the request itself
may be what breaks it."""

MAX_LOST = 8
"""The same for heads that died of it, or pipelines that broke: more often, since both also happen by themselves."""


class Relay:
    def __init__(self, roster: Roster, room: Room, lines: Heads, reporter: Reporter) -> None:
        self._roster = roster
        self._room = room
        self._heads = lines
        self._reporter = reporter

    async def answer(self, call: Call) -> None:
        """Deliver the whole answer to the call's sink. Raises GatewayError."""
        try:
            async with asyncio.timeout(call.route.timeout_seconds), self._telling(call):
                await _together([self._generate(generation) for generation in generations(call)])
        except TimeoutError:
            raise errors.TimedOut(
                f"the answer was not complete within {call.route.timeout_seconds} s (timeoutSeconds)"
            ) from None

    @contextlib.asynccontextmanager
    async def _telling(self, call: Call) -> AsyncIterator[None]:
        """Meanwhile, tell a sink that wants it how the cold start goes."""
        if not call.sink.wants_progress:
            yield
            return
        task = asyncio.create_task(self._tell(call))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _tell(self, call: Call) -> None:
        told: Progress | None = None
        while not call.has_token:
            route = self._room.route(call.route.key)
            cold = route is not None and self._room.is_cold(route)
            progress = (route and route.progress) or (Progress("Queued", 0.0, 0.0) if cold else None)
            if progress and progress != told:
                await call.sink.progress(progress)
                told = progress
            await self._roster.change()

    async def _generate(self, generation: Generation) -> None:
        """One prompt, at as many heads as it takes."""
        with self._room.seat(generation.call.route.key, generation.prompt_bytes) as seat:
            while not generation.tokens.complete:
                pipeline = await seat.pipeline()
                _same_model(generation, pipeline)
                before = generation.tokens.delivered
                try:
                    async with self._cold_budget(generation.call, seat):
                        await self._stream(generation, pipeline, seat)
                except HeadFailed as failure:
                    self._note(generation, pipeline, failure)
                    fruitful = generation.tokens.delivered > before
                    seat.give_back(fruitful=fruitful, taken=failure.fault is not Fault.FULL)

    @contextlib.asynccontextmanager
    async def _cold_budget(self, call: Call, seat: Seat) -> AsyncIterator[None]:
        """A head takes requests long before its weights are there: until the first token of a call for which they have
        to be loaded, the budget of the cold start is not over. Raises ColdStartTimeout."""
        if not call.cold and self._is_cold(call):  # what served when it came is gone
            call.cold, call.cold_since = True, time.monotonic()
        if not call.cold or call.has_token:
            yield
            return
        loop = asyncio.get_running_loop()
        left = call.route.cold_start_timeout_seconds - (time.monotonic() - call.cold_since)
        try:
            async with asyncio.timeout(None) as budget:
                timer = loop.call_later(left, self._end_if_cold, call, budget)
                try:
                    yield
                finally:
                    timer.cancel()
        except TimeoutError:
            if not budget.expired():
                raise
            raise self._room.late(seat.desk, Regime.COLD, others=seat.desk.waiting) from None

    def _end_if_cold(self, call: Call, budget: asyncio.Timeout) -> None:
        if not call.has_token and self._is_cold(call):
            budget.reschedule(0.0)

    def _is_cold(self, call: Call) -> bool:
        route = self._room.route(call.route.key)
        return route is not None and self._room.is_cold(route)

    async def _stream(self, generation: Generation, pipeline: Pipeline, seat: Seat) -> None:
        """What one head gives. Raises HeadFailed and CallerError."""
        call = generation.call
        generation.attempts += 1
        generation.taken = False
        request = heads.request(
            generation.prompt,
            generation.sampling,
            pipeline,
            # A former attempt may still be on its way out of the same head.
            request_id=f"{call.request_id}.{generation.number}.{generation.attempts}",
            function=str(call.route.key),
            adapter=call.route.adapter,
            log=generation.tokens,
        )
        async with contextlib.aclosing(self._heads.generate(pipeline, request)) as events:
            async for event in events:
                if isinstance(event, Accepted):
                    generation.taken = True
                    await call.sink.accepted(generation.number, event)
                elif self._take(generation, event, pipeline, seat):
                    await call.sink.token(generation.number, event)
                elif generation.tokens.closes(event):
                    await call.sink.closed(generation.number, event)
                if generation.tokens.complete:
                    return
        raise HeadFailed(Fault.BROKEN, f"the stream ended too early: {generation.tokens}")

    def _take(self, generation: Generation, token: Token, pipeline: Pipeline, seat: Seat) -> bool:
        """Enter a token into the log; whether it is new."""
        try:
            new = generation.tokens.take(token)
        except Gap as gap:
            raise HeadFailed(Fault.BROKEN, str(gap)) from gap
        if new:
            self._measure(generation, token, pipeline, seat)
        return new

    def _measure(self, generation: Generation, token: Token, pipeline: Pipeline, seat: Seat) -> None:
        call, now = generation.call, time.monotonic()
        seat.desk.count_token()
        if token.choice in generation.latest:
            BETWEEN_TOKENS.observe(now - generation.latest[token.choice])
        generation.latest[token.choice] = now
        generation.broken = generation.lost = 0
        generation.backbone = pipeline.backbone
        if call.has_token:
            return
        call.has_token = True
        FIRST_TOKEN.labels("true" if call.cold else "false").observe(now - call.began)
        if call.cold:
            self._reporter.first_token(
                demand_pb2.FirstToken(
                    namespace=seat.desk.key.namespace,
                    name=seat.desk.key.name,
                    request_id=call.request_id,
                    arrived_unix_us=int(call.arrived * 1e6),
                    first_token_unix_us=int((call.arrived + now - call.began) * 1e6),
                    epoch=model_pb2.Epoch(term=pipeline.epoch.term, counter=pipeline.epoch.counter),
                )
            )

    def _note(self, generation: Generation, pipeline: Pipeline, failure: HeadFailed) -> None:
        """Leave the pipeline alone, and the request too if it seems to be what breaks heads. Raises Broken."""
        if failure.fault is Fault.FULL:
            self._room.shut_full(pipeline.epoch)
        elif failure.fault is not Fault.SLOW:
            self._room.shut_failed(pipeline.epoch)
        CONTINUATIONS.labels(failure.fault.value).inc()
        log.warning(
            "continues elsewhere",
            function=str(generation.call.route.key),
            request_id=generation.call.request_id,
            epoch=str(pipeline.epoch),
            worker=pipeline.head,
            reason=str(failure),
            tokens=generation.tokens.delivered,
        )
        if failure.fault is Fault.BROKEN:
            generation.broken += 1
        elif failure.fault in (Fault.LOST, Fault.SILENT) or (failure.fault is Fault.GONE and generation.taken):
            generation.lost += 1  # one that was gone before it took the request is no doing of the request
        if generation.broken >= MAX_BROKEN or generation.lost >= MAX_LOST:
            failures = max(generation.broken, generation.lost)
            raise errors.Broken(f"{failures} heads failed on this request, the last with: {failure}")


def _same_model(generation: Generation, pipeline: Pipeline) -> None:
    """An answer is not continued by another model than began it. Raises NoCapacity."""
    if generation.backbone not in ("", pipeline.backbone):
        message = f"the model of {generation.call.route.key} changed while this was answered, and the old one is gone"
        raise errors.NoCapacity(message, retry_after=1)


async def _together(parts: list[Coroutine[None, None, None]]) -> None:
    """All of them, or the first error of any."""
    if len(parts) == 1:
        return await parts[0]
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as found:
        raise found.exceptions[0] from None
