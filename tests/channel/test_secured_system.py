"""The whole system over TCP with certificates: it answers, and talks to nobody else."""

from __future__ import annotations

import asyncio
import re
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from channel.authority import Authority
from channel.secured import RELEASE, Secured, secured
from forebay_channel import Identity, Role, expiry, open_channel
from forebay_wire.v1 import (
    demand_pb2,
    demand_pb2_grpc,
    engine_pb2,
    engine_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    view_pb2,
    view_pb2_grpc,
)
from local.reference import Reference
from local.system import PATIENCE, chat, function

PROMPT = "Why is the sky blue?"
TOKENS = 16
WORKERS = {"pool-node-a-0": "node-a", "pool-node-b-0": "node-b"}


@pytest.fixture
async def system(smollm2: Path) -> AsyncIterator[Secured]:
    with tempfile.TemporaryDirectory(prefix="fb-") as folder, secured(Path(folder)) as started:
        started.start_operator(function("smollm2", smollm2, scaling={"minReplicas": 0, "maxReplicas": 2}))
        started.start_gateway()
        for name, node in WORKERS.items():
            started.start_worker(name, node)
        yield started


async def test_answers_come_over_the_network_and_strangers_are_refused(system: Secured, real: Reference) -> None:
    await system.until(prepared, "two workers that are prepared")
    system.part_nodes()
    async with system.client() as client:
        real.check(await chat(client, "smollm2", PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)
    seen = await system.until(lambda seen: seen["coldStarts"], "a cold start")
    assert {stage["worker"] for stage in seen["coldStarts"][0]["stages"]} == set(WORKERS), "one pipeline, two nodes"

    ports = system.ports()
    assert set(ports.values()) == {"operator", *WORKERS}
    for port, name in ports.items():
        await refuses_strangers(system, port, Role.OPERATOR if name == "operator" else Role.WORKER)
    await refuses_wrong_roles(system, {name: f"127.0.0.1:{port}" for port, name in ports.items()})

    shown = {system.gateway_port: Role.GATEWAY, **dict.fromkeys(system.metrics.values(), Role.WORKER)}
    for port, role in shown.items():
        assert await asyncio.to_thread(expiry_shown, port) == expiry(system.identity(role).read())


def expiry_shown(port: int) -> float:
    """By /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        (line,) = re.findall(
            r"^forebay_certificate_expiry_timestamp_seconds (\S+)$", answer.read().decode(), re.MULTILINE
        )
    return float(line)


def prepared(seen: dict) -> bool:
    backbones = {item["backbone"] for item in seen["functions"]}
    warm = [worker for worker in seen["workers"] if worker["state"] == "Ready"]
    return (
        {worker["name"]: worker["node"] for worker in warm} == WORKERS
        and "" not in backbones
        and all(backbones <= set(worker["prepared"]) for worker in warm)
    )


async def refuses_strangers(system: Secured, port: int, role: Role) -> None:
    """In plain text, without a certificate, with one of another authority."""
    target = f"127.0.0.1:{port}"
    own = system.identity(role)
    named = (("grpc.ssl_target_name_override", own.name(role)),)
    foreign = Authority().identity(system.folder / "tls" / "foreign", role, RELEASE)
    (foreign.folder / "ca.crt").write_bytes(system.authority.pem)
    nameless = grpc.ssl_channel_credentials(system.authority.pem)
    for channel in (
        grpc.aio.insecure_channel(target),
        grpc.aio.secure_channel(target, nameless, named),
        open_channel(target, (), identity=foreign, role=role),
    ):
        async with channel:
            assert await outcome(health(channel)) is grpc.StatusCode.UNAVAILABLE
    async with open_channel(target, (), identity=own, role=role) as channel:
        assert await outcome(health(channel)) is grpc.StatusCode.OK


async def refuses_wrong_roles(system: Secured, targets: dict[str, str]) -> None:
    """Our own authority's certificates, in the wrong hands."""

    def channel(name: str, role: Role) -> grpc.aio.Channel:
        identity: Identity = system.identity(role)
        answers = Role.OPERATOR if name == "operator" else Role.WORKER
        return open_channel(targets[name], (), identity=identity, role=answers)

    async with channel("operator", Role.GATEWAY) as gateway, channel("operator", Role.WORKER) as worker:
        attach = fleet_pb2_grpc.FleetStub(gateway).Attach(iter([fleet_pb2.WorkerReport(name="x", incarnation="y")]))
        routes = demand_pb2_grpc.RoutesStub(worker).Watch(demand_pb2.RoutesRequest(gateway="x"))
        watch = view_pb2_grpc.ViewStub(worker).Watch(view_pb2.ViewRequest(once=True))
        for call in (attach, routes, watch):
            assert await outcome(call) is grpc.StatusCode.PERMISSION_DENIED
    for name in WORKERS:
        for role in (Role.WORKER, Role.OPERATOR):
            async with channel(name, role) as wrong:
                call = engine_pb2_grpc.EngineStub(wrong).Generate(engine_pb2.GenerateRequest(text="Hello"))
                assert await outcome(call) is grpc.StatusCode.PERMISSION_DENIED


def health(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryCall:
    return channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)


async def outcome(call: grpc.aio.Call) -> grpc.StatusCode:
    return await call.code()
