"""The gateway as a process: it says where it is, ends cleanly, and refuses a port that is taken."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys

import aiohttp
import pytest

from forebay_gateway.config import GatewayConfig, InvalidSetting
from forebay_gateway.errors import CannotStart, PortTaken
from forebay_gateway.server import serve
from gateway.scripted import Gate, events, until, until_closed

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}


async def test_it_says_where_it_is_and_takes_it_back(system):
    path = system.folder / "gateway.json"
    assert json.loads(path.read_text()) == {"pid": os.getpid(), "url": system.url}
    await system.stop()
    assert not path.exists()
    with pytest.raises(aiohttp.ClientConnectorError):
        await system.http.get("/health")


async def test_open_streams_are_finished_first(system):
    head = await system.head()
    gate = head.play = Gate(first=1)
    await system.route(head)
    async with system.http.post("/v1/chat/completions", json=CHAT) as response:
        stopping = asyncio.create_task(system.stop())
        await until_closed(system.url)
        assert not stopping.done()
        gate.open.set()
        assert (await events(response))[-1] == "data: [DONE]"
    await stopping


async def test_a_stream_that_outlasts_the_drain_ends_with_an_error(start):
    system = await start(drain=0.1)
    head = await system.head()
    head.play = Gate(first=1)
    await system.route(head)
    async with system.http.post("/v1/chat/completions", json=CHAT) as response:
        await response.content.readline()
        stopping = asyncio.create_task(system.stop())
        last = (await events(response))[-1]
    assert last.startswith("event: error")
    assert "this gateway stops" in last
    await stopping
    await until(lambda: head.active == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_has_not_begun_when_the_drain_is_over_is_a_503(start, stream):
    system = await start(drain=0.1)
    head = await system.head()
    head.play = Gate()
    await system.route(head)
    asked = asyncio.create_task(_whole(system.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})))
    await until(lambda: head.active == 1)
    await system.stop()
    status, answer = await asked
    assert (status, answer["error"]["message"]) == (503, "this gateway stops")


async def _whole(asking):
    async with asking as response:
        return response.status, await response.json()


async def test_who_stops_it_twice_does_not_wait(start):
    system = await start(drain=60)
    head = await system.head()
    head.play = Gate(first=1)
    await system.route(head)
    async with system.http.post("/v1/chat/completions", json=CHAT) as response:
        await response.content.readline()
        system.task.cancel()
        await until_closed(system.url)
        system.task.cancel()
        async with asyncio.timeout(10):
            last = (await events(response))[-1]
            await asyncio.wait([system.task])
    assert "this gateway stops" in last
    await until(lambda: head.active == 0)


async def test_a_taken_port_is_named(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = GatewayConfig("127.0.0.1", port, f"unix:{folder}/none.sock", folder)
        with pytest.raises(PortTaken, match=f"port {port} "):
            await serve(config, ready=lambda url: None)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "state", "named"),
    [("192.0.2.1", "", "192.0.2.1"), ("no.such.invalid", "", "no.such.invalid"), ("127.0.0.1", "file/state", "file")],
)
async def test_where_it_cannot_start_is_named(folder, host, state, named):
    (folder / "file").touch()
    config = GatewayConfig(host, 0, f"unix:{folder}/none.sock", folder / state)
    with pytest.raises(CannotStart, match=named):
        await serve(config, ready=lambda url: None)
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_every_address_of_both_kinds_is_listened_on(folder, unused_tcp_port):
    """A pod of a cluster that has IPv6 first, or alone."""
    config = GatewayConfig(host="::", port=unused_tcp_port, operator="127.0.0.1:9", state=folder)
    listening = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, ready=listening.set_result))
    try:
        assert await listening == f"http://[::]:{unused_tcp_port}"
        async with aiohttp.ClientSession() as http:
            for host in ("[::1]", "127.0.0.1"):
                async with http.get(f"http://{host}:{unused_tcp_port}/health") as answer:
                    assert answer.status == 200
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_alone_as_a_process(folder):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "forebay_gateway",
        "--port",
        "0",
        env={**os.environ, "FOREBAY_STATE": str(folder), "PYTHONPATH": ":".join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        url = (await process.stdout.readline()).decode().split()[1]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        _, logged = await process.communicate()
    assert process.returncode == 0
    assert list(folder.iterdir()) == []
    for line in logged.decode().splitlines():
        assert json.loads(line).keys() >= {"ts", "level", "logger", "event"}


def test_settings_come_from_the_environment():
    config = GatewayConfig.from_env(
        {"FOREBAY_STATE": "/s", "FOREBAY_PORT": "1", "FOREBAY_DOMAIN": ".Fn.example.com", "FOREBAY_DRAIN_SECONDS": "5"}
    )
    assert (config.port, config.operator, config.domain) == (1, "unix:/s/operator.sock", "fn.example.com")
    assert config.drain_seconds == 5
    assert config.metrics_release == ""
    assert GatewayConfig.from_env({"FOREBAY_METRICS_RELEASE": "models/forebay"}).metrics_release == "models/forebay"
    with pytest.raises(InvalidSetting, match="FOREBAY_METRICS_RELEASE='\"'"):
        GatewayConfig.from_env({"FOREBAY_METRICS_RELEASE": '"'})
    with pytest.raises(InvalidSetting, match="FOREBAY_PORT='x'"):
        GatewayConfig.from_env({"FOREBAY_PORT": "x"})
    with pytest.raises(InvalidSetting, match="FOREBAY_DRAIN_SECONDS='-1'"):
        GatewayConfig.from_env({"FOREBAY_DRAIN_SECONDS": "-1"})
