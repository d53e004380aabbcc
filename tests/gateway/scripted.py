"""An operator and heads that do what a test tells them: real gRPC servers on sockets, no engine behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc

from forebay_wire.v1 import demand_pb2, demand_pb2_grpc, engine_pb2, engine_pb2_grpc, model_pb2, view_pb2, view_pb2_grpc

DEADLINE = 10.0
"""Seconds until a condition that does not come true fails the test."""


async def until(holds: Callable[[], object]) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(DEADLINE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def function(name: str = "tiny", namespace: str = "default", **fields: object) -> demand_pb2.FunctionRoute:
    given = {
        "namespace": namespace,
        "name": name,
        "uid": f"{namespace}-{name}",
        "model_name": name,
        "backbone": "b0",
        "state": "Idle",
        "timeout_seconds": 30,
        "queue_max_requests": 100,
        "queue_timeout_seconds": 10,
        "cold_start_timeout_seconds": 10,
        "max_model_len": 256,
        "created_unix_us": 1_700_000_000_000_000,
    }
    return demand_pb2.FunctionRoute(**(given | fields))


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


def ask(system, **change) -> asyncio.Task[tuple[int, dict, dict]]:
    headers = change.pop("headers", {})

    async def go():
        async with system.http.post("/v1/chat/completions", json=CHAT | change, headers=headers) as response:
            return response.status, await response.json(), response.headers

    return asyncio.create_task(go())


class Operator:
    """Pushes the tables it is given, keeps the reports it gets."""

    def __init__(self, folder: Path) -> None:
        self.target = f"unix:{folder / 'operator.sock'}"
        self.reports: list[demand_pb2.DemandReport] = []
        self.first_tokens: list[demand_pb2.FirstToken] = []
        self.view = '{"functions": []}'
        self._version = 0
        self._table: demand_pb2.RouteTable | None = None
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        demand_pb2_grpc.add_DemandServicer_to_server(self, self._server)
        demand_pb2_grpc.add_RoutesServicer_to_server(_Routes(self), self._server)
        view_pb2_grpc.add_ViewServicer_to_server(_View(self), self._server)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def push(
        self, functions: Iterable[demand_pb2.FunctionRoute], pipelines: Iterable[demand_pb2.PipelineRoute] = ()
    ) -> None:
        async with self._changed:
            self._version += 1
            self._table = demand_pb2.RouteTable(term=1, version=self._version, functions=functions, pipelines=pipelines)
            self._changed.notify_all()

    async def Report(self, requests, context):
        async for report in requests:
            self.reports.append(report)
            self.first_tokens += report.first_tokens
            yield demand_pb2.DemandAck()

    async def tables(self) -> AsyncIterator[demand_pb2.RouteTable]:
        sent: demand_pb2.RouteTable | None = None
        while True:
            async with self._changed:
                while self._table is sent:
                    await self._changed.wait()
                sent = self._table
            assert sent is not None
            yield sent

    def demand(self, name: str = "tiny") -> demand_pb2.FunctionDemand:
        """What the latest report says of a function."""
        for found in self.reports[-1].functions if self.reports else ():
            if found.name == name:
                return found
        return demand_pb2.FunctionDemand()


class _Routes(demand_pb2_grpc.RoutesServicer):
    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def Watch(self, request, context):
        async for table in self._operator.tables():
            yield table


class _View(view_pb2_grpc.ViewServicer):
    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def Watch(self, request, context):
        sent = None
        while True:
            if sent != self._operator.view:
                sent = self._operator.view
                yield view_pb2.Snapshot(json=sent)
            await asyncio.sleep(0.02)


Play = Callable[[engine_pb2.GenerateRequest, grpc.aio.ServicerContext], AsyncIterator[engine_pb2.GenerateEvent]]


def accepted(prompt_tokens: int = 7) -> engine_pb2.GenerateEvent:
    return engine_pb2.GenerateEvent(accepted=engine_pb2.Accepted(prompt_tokens=prompt_tokens))


def token(choice: int, index: int, *, last: bool = False, finish: str = "length", **fields) -> engine_pb2.GenerateEvent:
    """Token ``index`` of a choice: its text says who it is, so that a test can see what came and how often."""
    text = f"{choice}:{index} "
    given = {
        "text": text,
        "piece": text,
        "raw": text.encode(),
        "logprob": -0.5,
        "token": 1000 * choice + index,
        # What the first token found; the others find what it left.
        "cached_tokens": 2 if choice == index == 0 else 6,
    } | fields
    return engine_pb2.GenerateEvent(
        token=engine_pb2.Token(choice=choice, index=index, finish=finish if last else "", **given)
    )


def answered(choice: int = 0, length: int = 5) -> str:
    """The text that a whole answer of a choice has."""
    return "".join(f"{choice}:{index} " for index in range(length))


def done(request: engine_pb2.GenerateRequest) -> dict[int, int]:
    """How many tokens of each choice came along."""
    return {resumed.choice: len(resumed.tokens) for resumed in request.resumed}


async def whole(
    request: engine_pb2.GenerateRequest, context: grpc.aio.ServicerContext | None = None, *, length: int = 5
):
    """All tokens that are missing, choices in turn."""
    yield accepted()
    length = min(length, request.sampling.max_tokens or length)
    have = done(request)
    for index in range(length):
        for choice in range(request.sampling.n):
            if index >= have.get(choice, 0):
                yield token(choice, index, last=index == length - 1, top=_top(request))


def _top(request: engine_pb2.GenerateRequest) -> list[engine_pb2.TopLogprob]:
    return [
        engine_pb2.TopLogprob(token=rank, text=f"top{rank}", logprob=-0.5 - rank, raw=b"top%d" % rank)
        for rank in range(request.sampling.top_logprobs)
    ]


async def refuse(context: grpc.aio.ServicerContext, code: grpc.StatusCode, reason: str, details: str = "") -> None:
    await context.abort(code, details or reason, trailing_metadata=(("forebay-reason", reason),))


async def dies_at_three(request: engine_pb2.GenerateRequest, context: grpc.aio.ServicerContext):
    """Its pipeline is gone with the third token of a choice."""
    async for event in whole(request):
        yield event
        if event.token.index == 2:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "pipeline_gone")


class Head:
    """Answers by ``play``; counts who is there."""

    def __init__(self, folder: Path, name: str, counter: int, *, stages: int = 1) -> None:
        self.name = name
        self.path = folder / f"{name}.engine.sock"
        self.counter = counter
        self.stages = stages
        self.play: Play = whole
        self.requests: list[engine_pb2.GenerateRequest] = []
        self.active = 0
        self.most_active = 0
        self.left = 0
        self._server: grpc.aio.Server | None = None

    def route(self, backbone: str = "b0") -> demand_pb2.PipelineRoute:
        return demand_pb2.PipelineRoute(
            epoch=model_pb2.Epoch(term=1, counter=self.counter),
            backbone=backbone,
            head=self.name,
            engine_unix=str(self.path),
            stages=self.stages,
            kv_tokens=4096,
        )

    async def start(self) -> None:
        self._server = grpc.aio.server()
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()

    async def stop(self) -> None:
        """As a killed process: every connection breaks at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def Generate(self, request, context):
        self.requests.append(request)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            async for event in self.play(request, context):
                yield event
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.active -= 1


class Gate:
    """A play that accepts, gives ``first`` tokens, and goes on when opened; beats meanwhile."""

    def __init__(self, *, first: int = 0, length: int = 5) -> None:
        self.open = asyncio.Event()
        self._first, self._length = first, length

    async def __call__(self, request, context):
        held = False
        async for event in whole(request, length=self._length):
            if event.WhichOneof("event") == "token" and event.token.index >= self._first and not held:
                held = True
                while not self.open.is_set():
                    yield engine_pb2.GenerateEvent(heartbeat=engine_pb2.Heartbeat())
                    try:
                        async with asyncio.timeout(0.2):
                            await self.open.wait()
                    except TimeoutError:
                        continue
            yield event


async def events(response) -> list[str]:
    """The events of a stream, as texts, until it ends."""
    text = (await response.read()).decode()
    return [event for event in text.split("\n\n") if event]


def data(found: Sequence[str]) -> list[dict]:
    return [json.loads(event.removeprefix("data: ")) for event in found if event.startswith("data: {")]


@asynccontextmanager
async def running(part):
    await part.start()
    try:
        yield part
    finally:
        await part.stop()


async def until_closed(url: str) -> None:
    """Until nothing listens. (asyncio may drop a connection that came in while it closed, hence the short timeout.)"""
    async with asyncio.timeout(10), aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as fresh:
        while True:
            try:
                async with fresh.get(f"{url}/health"):
                    await asyncio.sleep(0.01)
            except aiohttp.ClientConnectorError:
                return
            except (TimeoutError, aiohttp.ClientError):
                continue
