"""A gateway and several operators of which one acts; and how a gateway leaves."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import pytest

from channel.authority import Authority
from forebay_channel import Identity, Role, add_port
from forebay_gateway.config import GatewayConfig, InvalidSetting
from forebay_gateway.server import serve
from forebay_gateway.uplink import Uplink
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc
from gateway.scripted import Gate, Head, events, function, until, until_closed

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}


@dataclass
class Replica(demand_pb2_grpc.DemandServicer, demand_pb2_grpc.RoutesServicer):
    """An operator that acts or stands by."""

    acting: bool
    pipelines: list[demand_pb2.PipelineRoute] = field(default_factory=list)
    tried: int = 0
    reports: int = 0
    port: int = 0
    server: grpc.aio.Server | None = None

    async def start(self, identity: Identity | None) -> None:
        self.server = grpc.aio.server()
        demand_pb2_grpc.add_DemandServicer_to_server(self, self.server)
        demand_pb2_grpc.add_RoutesServicer_to_server(self, self.server)
        self.port = add_port(self.server, f"127.0.0.1:{self.port}", identity)
        await self.server.start()

    async def _guard(self, context: grpc.aio.ServicerContext) -> None:
        self.tried += 1
        if not self.acting:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "standing by")

    async def Report(self, requests, context):
        await self._guard(context)
        async for _ in requests:
            self.reports += 1
            yield demand_pb2.DemandAck()

    async def Watch(self, request, context):
        await self._guard(context)
        yield demand_pb2.RouteTable(term=1, version=1, functions=[function()], pipelines=self.pipelines)
        await asyncio.Event().wait()


@pytest.fixture
def folder():
    # Short: a unix socket's address has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fb-") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def replicas(*acting: bool, identity: Identity | None = None) -> AsyncIterator[list[Replica]]:
    started = [Replica(each) for each in acting]
    for replica in started:
        await replica.start(identity)
    try:
        yield started
    finally:
        for replica in started:
            if replica.server:
                await replica.server.stop(None)


@contextlib.asynccontextmanager
async def gateway(folder: Path, operators: list[Replica], **settings) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    targets = ", ".join(f"127.0.0.1:{replica.port}" for replica in operators)
    config = GatewayConfig("127.0.0.1", 0, targets, folder, **settings)
    task = asyncio.create_task(serve(config, ready=listening.set_result))
    try:
        await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
        yield listening.result(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def status(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status


async def until_status(url: str, wanted: int) -> None:
    async with asyncio.timeout(10):
        while await status(url) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_one_that_acts_is_found_and_the_next_one_after_it(folder: Path) -> None:
    async with replicas(False, True) as (first, second), gateway(folder, [first, second]):
        await until(lambda: second.reports)
        assert first.reports == 0
        second.acting, first.acting = False, True
        assert second.server
        await second.server.stop(None)
        await until(lambda: first.reports)
        second.server = None


async def test_while_none_acts_both_are_asked_until_one_does(folder: Path) -> None:
    async with replicas(False, False) as operators, gateway(folder, operators) as (url, _):
        await until(lambda: all(replica.tried >= 4 for replica in operators))
        assert await status(f"{url}/ready") == 503
        operators[1].acting = True
        await until_status(f"{url}/ready", 200)


async def test_an_address_that_is_dead_does_not_hold_up_the_next(folder: Path) -> None:
    async with replicas(True, True) as (dead, living):
        assert dead.server
        await dead.server.stop(None)
        dead.server = None
        async with gateway(folder, [dead, living]) as (url, _):
            await until_status(f"{url}/ready", 200)


async def test_with_certificates(folder: Path, tmp_path: Path) -> None:
    authority = Authority()
    operator = authority.identity(tmp_path / "operator", Role.OPERATOR)
    mine = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    stranger = Authority().identity(tmp_path / "stranger", Role.OPERATOR)
    async with (
        replicas(True, identity=stranger) as strangers,
        replicas(True, identity=operator) as own,
        gateway(folder, strangers + own, identity=mine) as (url, _),
    ):
        await until_status(f"{url}/ready", 200)
        assert strangers[0].tried == 0


async def test_an_unknown_name_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS knows a headless Service only once a pod is ready."""
    asked = 0
    found = asyncio.Event()

    async def known_later(target: str) -> tuple[str, ...]:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError(-2, "Name or service not known")
        return ("127.0.0.1:1",)

    monkeypatch.setattr("forebay_gateway.uplink.addresses", known_later)
    monkeypatch.setattr("forebay_gateway.uplink.connected", lambda *_: asyncio.sleep(0))

    async def session(channel: grpc.aio.Channel, answered) -> None:
        found.set()

    task = asyncio.create_task(Uplink("operator.ns.svc:9443").keep("test", session))
    async with asyncio.timeout(10):
        await found.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_gateway_that_leaves_says_so_and_goes_on_serving(folder: Path) -> None:
    head = Head(folder, "w0", 1, stages=1)
    await head.start()
    try:
        async with replicas(True) as operators:
            operators[0].pipelines = [head.route()]
            async with (
                gateway(folder, operators, lame_duck_seconds=60, drain_seconds=60) as (url, task),
                aiohttp.ClientSession(url) as http,
            ):
                await until_status(f"{url}/ready", 200)
                task.cancel()
                await until_status(f"{url}/ready", 503)
                assert await status(f"{url}/health") == 200
                gate = head.play = Gate(first=1)
                async with http.post("/v1/chat/completions", json=CHAT) as response:
                    assert response.status == 200
                    gate.open.set()
                    assert (await events(response))[-1] == "data: [DONE]"
                task.cancel()  # a second wish to stop
                async with asyncio.timeout(10):
                    await asyncio.wait([task])
    finally:
        await head.stop()


async def test_after_the_pause_it_drains(folder: Path) -> None:
    head = Head(folder, "w0", 1, stages=1)
    await head.start()
    try:
        async with replicas(True) as operators:
            operators[0].pipelines = [head.route()]
            async with (
                gateway(folder, operators, lame_duck_seconds=0.05, drain_seconds=60) as (url, task),
                aiohttp.ClientSession(url) as http,
            ):
                await until_status(f"{url}/ready", 200)
                gate = head.play = Gate(first=1)
                async with http.post("/v1/chat/completions", json=CHAT) as response:
                    task.cancel()
                    await until_closed(url)
                    assert not task.done()
                    gate.open.set()
                    assert (await events(response))[-1] == "data: [DONE]"
                async with asyncio.timeout(10):
                    await asyncio.wait([task])
    finally:
        await head.stop()


def test_settings_of_the_cluster_are_read(tmp_path: Path) -> None:
    found = GatewayConfig.from_env(
        {"FOREBAY_TLS": str(tmp_path), "FOREBAY_RELEASE": "mine", "FOREBAY_LAME_DUCK_SECONDS": "5"}
    )
    assert found.identity == Identity(tmp_path, "mine")
    assert found.lame_duck_seconds == 5
    with pytest.raises(InvalidSetting, match="FOREBAY_RELEASE"):
        GatewayConfig.from_env({"FOREBAY_TLS": str(tmp_path)})
