"""A worker and several operators of which one acts; and what a worker is told in a pod."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from channel.authority import Authority
from forebay_channel import Identity, Role, add_port
from forebay_wire.v1 import fleet_pb2, fleet_pb2_grpc
from forebay_worker import sockets
from forebay_worker.attach import Attachment
from forebay_worker.config import WorkerConfig, add_serve_flags, read_serve_flags

UID = "0123456789abcdef-0123"
DEADLINE = 10.0


@dataclass
class Operator(fleet_pb2_grpc.FleetServicer):
    acting: bool
    tried: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    states: list[str] = field(default_factory=list)
    ended: bool = False

    async def Attach(self, requests, context):
        self.tried += 1
        if not self.acting:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "standing by")
        async for report in requests:
            self.states.append(report.state)
            self.heard.set()
            if self.leave.is_set():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "another leads")
        self.ended = True


@contextlib.asynccontextmanager
async def serving(operator: Operator, identity: Identity | None) -> AsyncIterator[Operator]:
    server = grpc.aio.server()
    fleet_pb2_grpc.add_FleetServicer_to_server(operator, server)
    operator.port = add_port(server, "127.0.0.1:0", identity)
    await server.start()
    try:
        yield operator
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def attaching(identity: Identity | None, *operators: Operator, state: str = "") -> AsyncIterator[Attachment]:
    attachment = Attachment(
        [f"localhost:{operator.port}" for operator in operators],
        identity,
        report=lambda: fleet_pb2.WorkerReport(name="w0", incarnation="1", state=state),
        sent=lambda report: None,
        obey=lambda command: None,
    )
    task = asyncio.create_task(attachment.run())
    try:
        yield attachment
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_heard(operator: Operator) -> None:
    async with asyncio.timeout(DEADLINE):
        await operator.heard.wait()


async def test_the_one_that_acts_is_found_and_the_next_one_after_it(tmp_path: Path) -> None:
    authority = Authority()
    identity = authority.identity(tmp_path / "operator", Role.OPERATOR)
    worker = authority.identity(tmp_path / "worker", Role.WORKER)
    async with (
        serving(Operator(acting=False), identity) as first,
        serving(Operator(acting=True), identity) as second,
        attaching(worker, first, second),
    ):
        await until_heard(second)
        assert not first.heard.is_set()
        first.acting, second.acting = True, False
        second.leave.set()
        await until_heard(first)


async def test_who_leaves_is_heard_to_the_end() -> None:
    async with (
        serving(Operator(acting=True), None) as operator,
        attaching(None, operator, state="Draining") as attachment,
    ):
        await until_heard(operator)
        operator.states.clear()
        await attachment.leave(DEADLINE)
        assert operator.states == ["Draining"]
        assert operator.ended
        assert operator.tried == 1
    async with attaching(None, operator) as alone:
        await alone.leave(DEADLINE)  # nobody to wait for


async def test_while_all_stand_by_they_are_asked_until_one_acts() -> None:
    async with (
        serving(Operator(acting=False), None) as first,
        serving(Operator(acting=False), None) as second,
        attaching(None, first, second),
    ):
        async with asyncio.timeout(DEADLINE):
            while min(first.tried, second.tried) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        second.acting = True
        await until_heard(second)


def settings(tmp_path: Path, *words: str, **environ: str) -> WorkerConfig:
    parser = argparse.ArgumentParser()
    add_serve_flags(parser, {"FOREBAY_OPERATOR": "o:1", "FOREBAY_STATE": str(tmp_path), **environ})
    return read_serve_flags(parser, parser.parse_args(words))


def test_a_pod_gives_its_worker_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_TLS", str(tmp_path))
    monkeypatch.setenv("FOREBAY_RELEASE", "mine")
    name = "p" * 40 + "-" + "n" * 20 + "-0"
    found = settings(
        tmp_path,
        FOREBAY_NAME=name,
        FOREBAY_POD_UID=UID,
        FOREBAY_LISTEN="10.0.0.7",
        FOREBAY_SOCKETS="/cache/sockets",
        FOREBAY_METRICS_PORT="9090",
        FOREBAY_NODE="node-a",
    )
    assert found.names == (name,)
    assert found.socket(name, "hop") == Path("/cache/sockets/0123456789ab.hop.sock")
    assert (found.listen, found.metrics_port, found.node) == ("10.0.0.7", 9090, "node-a")
    assert found.identity == Identity(tmp_path, "mine")


def test_alone_everything_is_as_before(tmp_path: Path) -> None:
    found = settings(tmp_path, "--count", "2")
    assert found.names == ("w0", "w1")
    assert found.socket("w1", "engine") == tmp_path / "sockets" / "w1.engine.sock"
    assert (found.listen, found.metrics_port, found.identity) == ("127.0.0.1", None, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "10.0.0.7"), "10.0.0.7 is not on loopback, and without FOREBAY_TLS"),
        (("--listen", "0.0.0.0"), "is no address that others could call"),
        (("--listen", "node-a"), "'node-a' is not an IP address"),
        (("--name", "a_b"), "'a_b' cannot name a worker"),
        (("--name", "a" * 64), "at most 63"),
        (("--name-prefix", "a" * 62), "at most 61"),
        (("--metrics-port", "0"), "'0' is not a port"),
        (("--count", "2", "--name", "x"), "--name: x is for one worker, and --count is 2"),
        (("--count", "2", "--pod-uid", UID), "--pod-uid"),
        (("--count", "2", "--metrics-port", "9090"), "--metrics-port"),
        (("--sockets", "/" + "s" * 100), "argument --sockets: /s"),
    ],
)
def test_what_makes_no_sense_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit):
        settings(tmp_path, *words)
    assert said in capsys.readouterr().err


def test_sockets_of_pods_that_are_gone_are_removed(tmp_path: Path) -> None:
    old = time.time() - 2 * sockets.YOUNG_SECONDS
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as young:
        living.bind(str(tmp_path / "living.sock"))
        living.listen()
        young.bind(str(tmp_path / "young.sock"))
        (tmp_path / "note").touch()
        for name in ("living.sock", "dead.sock", "note"):
            os.utime(tmp_path / name, (old, old))
        sockets.clear(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"living.sock", "young.sock", "note"}
