"""A gateway in the test's own process, between a scripted operator and scripted heads."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI, OpenAI

from forebay_gateway.config import GatewayConfig, Limits
from forebay_gateway.server import serve
from forebay_wire.v1 import demand_pb2
from gateway.scripted import Head, Operator, function, until


@dataclass
class System:
    """A gateway that serves, the operator it follows, and heads that tests start."""

    folder: Path
    operator: Operator
    url: str
    task: asyncio.Task[None]
    http: aiohttp.ClientSession
    heads: list[Head] = field(default_factory=list)
    _settled: int = 0

    async def head(self, *, stages: int = 1) -> Head:
        """One more head, which listens but is not routed yet."""
        head = Head(self.folder, f"w{len(self.heads)}", len(self.heads) + 1, stages=stages)
        await head.start()
        self.heads.append(head)
        return head

    async def route(self, *heads: Head, functions: list[demand_pb2.FunctionRoute] | None = None) -> None:
        await self.operator.push(functions or [function()], [head.route() for head in heads])

    async def settle(self, *heads: Head, functions: list[demand_pb2.FunctionRoute] | None = None) -> None:
        """Route, and wait until it is in force."""
        self._settled += 1
        marker = f"marker-{self._settled}"
        await self.route(*heads, functions=[*(functions or [function()]), function(marker)])
        async with asyncio.timeout(10):
            while True:
                async with self.http.get("/v1/models") as response:
                    if marker in await response.text():
                        return

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def client(self, **options) -> AsyncOpenAI:
        return AsyncOpenAI(**({"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | options))

    def sync_client(self, **options) -> OpenAI:
        return OpenAI(**({"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | options))

    async def metric(self, line: str) -> float:
        """The value of one sample, named as /metrics prints it; 0 where there is none."""
        async with self.http.get("/metrics") as response:
            for found in (await response.text()).splitlines():
                name, _, value = found.rpartition(" ")
                if name == line:
                    return float(value)
        return 0.0

    def idle(self) -> bool:
        """Whether the operator was told that nobody waits and nobody is served."""
        found = self.operator.demand()
        return not found.waiting and not found.in_flight and found.requests > 0


Start = Callable[..., Awaitable[System]]


@pytest.fixture
def folder():
    # Short: a unix socket's address has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fb-") as name:
        yield Path(name)


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    """Starts a system; ``routed=False`` leaves the gateway without a first table."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, routed: bool = True, domain: str = "", drain: float = 2.0, **limits) -> System:
            operator = Operator(folder)
            await operator.start()
            stack.push_async_callback(operator.stop)
            listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            config = GatewayConfig(
                host="127.0.0.1",
                port=0,
                operator=operator.target,
                state=folder,
                domain=domain,
                drain_seconds=drain,
                limits=Limits(**limits),
            )
            task = asyncio.create_task(serve(config, ready=listening.set_result))
            await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
            url = listening.result()
            http = await stack.enter_async_context(aiohttp.ClientSession(url))
            system = System(folder, operator, url, task, http)
            stack.push_async_callback(_stop_heads, system)
            stack.push_async_callback(system.stop)
            if routed:
                await system.route()
                await until(lambda: operator.reports)
                await _ready(http)
            return system

        yield begin


@pytest.fixture
async def system(start: Start) -> System:
    return await start()


async def _stop_heads(system: System) -> None:
    for head in system.heads:
        await head.stop()


async def _ready(http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(10):
        while True:
            async with http.get("/ready") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)
