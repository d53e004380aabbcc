"""Real servers and clients on loopback with real certificates: who gets through, and who is told no."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from channel.authority import Authority
from forebay_channel import (
    Guard,
    Identity,
    InvalidIdentity,
    Role,
    Unreachable,
    add_port,
    addresses,
    connected,
    open_channel,
    refusal,
)
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc, view_pb2, view_pb2_grpc

VIEW = "forebay_wire.v1.View"
DEMAND = "forebay_wire.v1.Demand"


class View(view_pb2_grpc.ViewServicer):
    """Says how often it was entered, and when a call of it ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def Watch(self, request, context):
        try:
            yield view_pb2.Snapshot(json="{}")
            if not request.once:
                await asyncio.Event().wait()
        finally:
            self.ended.set()


class Demand(demand_pb2_grpc.DemandServicer):
    """Written the other way: with the context's own reading and writing."""

    async def Report(self, requests, context):
        async for _ in requests:
            await context.write(demand_pb2.DemandAck())


@asynccontextmanager
async def serving(address: str, identity: Identity | None, *, guard: bool = True) -> AsyncIterator[tuple[str, View]]:
    allowed = {VIEW: {Role.GATEWAY, Role.OPERATOR}}
    server = grpc.aio.server(interceptors=[Guard(allowed, identity)] if guard else [])
    view = View()
    view_pb2_grpc.add_ViewServicer_to_server(view, server)
    demand_pb2_grpc.add_DemandServicer_to_server(Demand(), server)
    port = add_port(server, address, identity)
    await server.start()
    try:
        yield (address if address.startswith("unix:") else f"127.0.0.1:{port}"), view
    finally:
        await server.stop(None)


async def look(target: str, identity: Identity | None, role: Role = Role.OPERATOR) -> str:
    async with open_channel(target, (), identity=identity, role=role) as channel:
        call = view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest(once=True), timeout=10)
        return "".join([snapshot.json async for snapshot in call])


@asynccontextmanager
async def refused(code: grpc.StatusCode) -> AsyncIterator[Callable[[], str]]:
    said = ""
    with pytest.raises(grpc.aio.AioRpcError) as found:
        yield lambda: said
    assert found.value.code() is code
    said = found.value.details() or ""


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Identity:
    return authority.identity(tmp_path / "server", Role.OPERATOR)


async def test_each_allowed_role_passes(authority: Authority, server: Identity, tmp_path: Path) -> None:
    async with serving("127.0.0.1:0", server) as (target, _):
        for role in (Role.GATEWAY, Role.OPERATOR):
            assert await look(target, authority.identity(tmp_path / role, role)) == "{}"


@pytest.mark.parametrize("secured", [True, False])
async def test_a_proxy_for_the_world_outside_is_passed_by(
    secured: bool, authority: Authority, server: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_grpc_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        shown = server if secured else None
        ours = authority.identity(tmp_path / "gateway", Role.GATEWAY) if secured else None
        async with serving("127.0.0.1:0", shown, guard=secured) as (target, _):
            assert await look(target, ours) == "{}"
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


async def test_a_wrong_role_is_told_who_may(authority: Authority, server: Identity, tmp_path: Path) -> None:
    worker = authority.identity(tmp_path / "worker", Role.WORKER)
    async with serving("127.0.0.1:0", server) as (target, view):
        async with refused(grpc.StatusCode.PERMISSION_DENIED) as said:
            await look(target, worker)
        assert said() == f"{VIEW} is for gateway.forebay or operator.forebay, by the name in the certificate"
        assert not view.ended.is_set()


async def test_the_same_role_of_another_release_is_refused(
    authority: Authority, server: Identity, tmp_path: Path
) -> None:
    """Both releases under one authority, as one cert-manager issuer makes them."""
    stranger = authority.identity(tmp_path / "stranger", Role.GATEWAY, "other")
    async with serving("127.0.0.1:0", server) as (target, _):
        async with refused(grpc.StatusCode.PERMISSION_DENIED):
            await look(target, Identity(stranger.folder, "forebay"))
        async with refused(grpc.StatusCode.UNAVAILABLE):  # and it would not talk to us
            await look(target, stranger)


async def test_a_service_nobody_was_named_for_is_closed(authority: Authority, server: Identity, tmp_path: Path) -> None:
    gateway = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    async with (
        serving("127.0.0.1:0", server) as (target, _),
        open_channel(target, (), identity=gateway, role=Role.OPERATOR) as channel,
        refused(grpc.StatusCode.PERMISSION_DENIED),
    ):
        call = demand_pb2_grpc.DemandStub(channel).Report()
        await call.write(demand_pb2.DemandReport())
        await call.read()


async def test_without_a_certificate_there_is_no_connection(server: Identity) -> None:
    async with serving("127.0.0.1:0", server) as (target, view):
        credentials = grpc.ssl_channel_credentials((server.folder / "ca.crt").read_bytes())
        named = [("grpc.ssl_target_name_override", server.name(Role.OPERATOR))]
        async with grpc.aio.secure_channel(target, credentials, named) as channel, refused(grpc.StatusCode.UNAVAILABLE):
            await view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest(once=True), timeout=10).read()
        async with refused(grpc.StatusCode.UNAVAILABLE):  # plain text
            await look(target, None)
        assert not view.ended.is_set()


async def test_another_authority_is_refused_on_both_sides(server: Identity, tmp_path: Path) -> None:
    stranger = Authority().identity(tmp_path / "gateway", Role.GATEWAY)
    async with serving("127.0.0.1:0", server) as (target, _):
        async with refused(grpc.StatusCode.UNAVAILABLE):
            await look(target, stranger)
        (stranger.folder / "ca.crt").write_bytes((server.folder / "ca.crt").read_bytes())
        async with refused(grpc.StatusCode.UNAVAILABLE):  # now only the server objects
            await look(target, stranger)


async def test_a_client_checks_the_servers_role(authority: Authority, tmp_path: Path) -> None:
    gateway = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    async with serving("127.0.0.1:0", authority.identity(tmp_path / "worker", Role.WORKER)) as (target, _):
        async with refused(grpc.StatusCode.UNAVAILABLE):
            await look(target, gateway, Role.OPERATOR)
        assert await look(target, gateway, Role.WORKER) == "{}"


async def test_renewed_files_are_used_without_a_restart(authority: Authority, server: Identity, tmp_path: Path) -> None:
    gateway = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    async with serving("127.0.0.1:0", server) as (target, _):
        assert await look(target, gateway) == "{}"
        other = Authority()
        other.identity(server.folder, Role.OPERATOR)
        async with refused(grpc.StatusCode.UNAVAILABLE):
            await look(target, gateway)
        other.identity(gateway.folder, Role.GATEWAY)
        assert await look(target, gateway) == "{}"


async def test_files_that_went_away_or_are_half_written_leave_what_was(
    authority: Authority, server: Identity, tmp_path: Path
) -> None:
    gateway = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    async with serving("127.0.0.1:0", server) as (target, _):
        whole = (server.folder / "tls.crt").read_bytes()
        (server.folder / "tls.crt").unlink()
        assert await look(target, gateway) == "{}"
        (server.folder / "tls.crt").write_bytes(whole[:40])
        assert await look(target, gateway) == "{}"


async def test_unix_sockets_are_plain_and_open(server: Identity, tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/s", server) as (target, _):
        assert await look(target, None) == "{}"
        assert await look(target, server) == "{}"


async def test_without_identity_everything_is_plain() -> None:
    async with serving("127.0.0.1:0", None) as (target, _):
        assert await look(target, None) == "{}"


async def test_plain_text_over_the_network_does_not_pass_a_guard(server: Identity) -> None:
    async with serving("127.0.0.1:0", None, guard=False) as (target, _):
        assert await look(target, None) == "{}"
    guarded = grpc.aio.server(interceptors=[Guard({VIEW: {Role.GATEWAY}}, server)])
    view_pb2_grpc.add_ViewServicer_to_server(View(), guarded)
    port = guarded.add_insecure_port("127.0.0.1:0")
    await guarded.start()
    try:
        async with refused(grpc.StatusCode.PERMISSION_DENIED):
            await look(f"127.0.0.1:{port}", None)
    finally:
        await guarded.stop(None)


async def test_streams_both_ways_pass_a_guard(authority: Authority, tmp_path: Path) -> None:
    identity = authority.identity(tmp_path / "any", Role.GATEWAY)
    server = grpc.aio.server(interceptors=[Guard({DEMAND: {Role.GATEWAY}}, identity)])
    demand_pb2_grpc.add_DemandServicer_to_server(Demand(), server)
    port = add_port(server, "127.0.0.1:0", identity)
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", (), identity=identity, role=Role.GATEWAY) as channel:
            call = demand_pb2_grpc.DemandStub(channel).Report()
            for _ in range(3):
                await call.write(demand_pb2.DemandReport())
                assert isinstance(await call.read(), demand_pb2.DemandAck)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
    finally:
        await server.stop(None)


async def test_a_stream_is_refused_once_its_first_message_is_in(
    authority: Authority, server: Identity, tmp_path: Path
) -> None:
    """A write that meets a call already ended would hide from the caller why it was (grpc/grpc#36066)."""
    worker = authority.identity(tmp_path / "worker", Role.WORKER)
    async with (
        serving("127.0.0.1:0", server) as (target, _),
        open_channel(target, (), identity=worker, role=Role.OPERATOR) as channel,
    ):
        await channel.channel_ready()
        call = demand_pb2_grpc.DemandStub(channel).Report()
        code = asyncio.ensure_future(call.code())
        await asyncio.wait((code,), timeout=0.3)
        assert not code.done()
        await call.write(demand_pb2.DemandReport())
        assert await code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_that_says_nothing_or_nonsense_is_refused_all_the_same(
    authority: Authority, server: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "HEARING_SECONDS", 0.05)
    worker = authority.identity(tmp_path / "worker", Role.WORKER)
    async with (
        serving("127.0.0.1:0", server) as (target, _),
        open_channel(target, (), identity=worker, role=Role.OPERATOR) as channel,
    ):
        silent, over = (demand_pb2_grpc.DemandStub(channel).Report() for _ in range(2))
        await over.done_writing()
        garbled = channel.stream_stream(f"/{DEMAND}/Report")()
        await garbled.write(b"\xff\xff\xff")
        for call in (silent, over, garbled):
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_caller_that_goes_ends_the_guarded_call(authority: Authority, server: Identity, tmp_path: Path) -> None:
    gateway = authority.identity(tmp_path / "gateway", Role.GATEWAY)
    async with (
        serving("127.0.0.1:0", server) as (target, view),
        open_channel(target, (), identity=gateway, role=Role.OPERATOR) as channel,
    ):
        call = view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest())
        await call.read()
        assert not view.ended.is_set()
        call.cancel()
        async with asyncio.timeout(10):
            await view.ended.wait()


async def test_connected_says_at_once_that_nobody_is_there(server: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    async with open_channel(f"127.0.0.1:{free}", (), identity=server, role=Role.OPERATOR) as channel:
        with pytest.raises(Unreachable, match="nobody answers"):
            await connected(channel, 30)


async def test_connected_gives_up_on_who_says_nothing(server: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        async with open_channel(target, (), identity=server, role=Role.OPERATOR) as channel:
            with pytest.raises(Unreachable, match=r"within 0\.2 s"):
                await connected(channel, 0.2)


async def test_connected_comes_back_once_it_is(server: Identity) -> None:
    async with (
        serving("127.0.0.1:0", server) as (target, _),
        open_channel(target, (), identity=server, role=Role.OPERATOR) as channel,
    ):
        await connected(channel, 30)


async def test_addresses_are_all_that_the_name_has() -> None:
    assert await addresses("unix:/a/b") == ("unix:/a/b",)
    assert await addresses("10.0.0.1:9443") == ("10.0.0.1:9443",)
    assert await addresses("[fd00::1]:9443") == ("[fd00::1]:9443",)
    assert "127.0.0.1:9443" in await addresses("localhost:9443")
    with pytest.raises(OSError, match=r"."):
        await addresses("no.such.invalid:9443")


async def test_every_address_of_a_headless_service(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 9443)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.2", 9443)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::2", 9443, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 9443)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert sorted(await addresses("operator.ns.svc:9443")) == ["10.0.0.1:9443", "10.0.0.2:9443", "[fd00::2]:9443"]


def test_an_identity_comes_from_the_environment(tmp_path: Path) -> None:
    assert Identity.from_env({}) is None
    found = Identity.from_env({"FOREBAY_TLS": str(tmp_path), "FOREBAY_RELEASE": "mine"})
    assert found == Identity(tmp_path, "mine")
    assert found.name(Role.WORKER) == "worker.mine"
    with pytest.raises(InvalidIdentity, match="FOREBAY_RELEASE is empty"):
        Identity.from_env({"FOREBAY_TLS": str(tmp_path)})


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidIdentity, match=r"expected tls.crt, tls.key and ca.crt there: .*tls.crt"):
        open_channel("127.0.0.1:1", (), identity=Identity(tmp_path, "forebay"), role=Role.OPERATOR)
