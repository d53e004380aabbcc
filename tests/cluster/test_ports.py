"""What an operator opens to others: its health, and doors that open when it leads. And what it does again and again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.request

import grpc
import pytest

from control.actors import until
from forebay_operator.cluster.duty import duty
from forebay_operator.cluster.health_port import health_port
from forebay_operator.doors import Doors
from forebay_operator.exposed import exposed
from forebay_operator.listen import CannotListen
from forebay_operator.together import together
from forebay_operator.view import View
from forebay_wire.v1 import view_pb2, view_pb2_grpc


async def asked(port: int, line: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("listened", "answers"), [("::", ("[::1]", "127.0.0.1")), ("0.0.0.0", ("127.0.0.1",))])
def test_metrics_are_where_the_operator_listens(listened: str, answers: tuple[str, ...], unused_tcp_port: int) -> None:
    with exposed(unused_tcp_port, host=listened):
        for host in answers:
            with urllib.request.urlopen(f"http://{host}:{unused_tcp_port}/metrics", timeout=10) as answer:
                assert answer.status == 200


async def test_health(unused_tcp_port: int) -> None:
    missing = ["not listening yet"]
    async with health_port(unused_tcp_port, lambda: missing[-1]):
        assert (await asked(unused_tcp_port, "GET /healthz")).startswith("HTTP/1.1 200")
        answer = await asked(unused_tcp_port, "GET /readyz")
        assert answer.startswith("HTTP/1.1 503")
        assert answer.endswith("not listening yet\n")
        missing.append("")
        assert (await asked(unused_tcp_port, "GET /readyz")).startswith("HTTP/1.1 200")
        assert (await asked(unused_tcp_port, "GET /secrets")).startswith("HTTP/1.1 404")
        assert (await asked(unused_tcp_port, "x")).startswith("HTTP/1.1 404")
        with pytest.raises(CannotListen, match=f"health port {unused_tcp_port}"):
            async with health_port(unused_tcp_port, lambda: ""):
                raise AssertionError("two on one port")


async def test_doors_open_once_somebody_leads() -> None:
    doors = Doors()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((doors,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        view = view_pb2_grpc.ViewStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="standby") as refused:
            await anext(aiter(view.Watch(view_pb2.ViewRequest(once=True))))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        view_pb2_grpc.add_ViewServicer_to_server(View(lambda: {"here": 1}), doors)
        assert [snapshot.json async for snapshot in view.Watch(view_pb2.ViewRequest(once=True))] == ['{"here":1}']
        unknown = channel.unary_unary("/forebay_wire.v1.Fleet/Attach")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unknown(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(0)


async def test_what_lives_together_ends_together() -> None:
    ended = []

    async def patient() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("patient")

    async def brief() -> None:
        await asyncio.sleep(0)

    async def wrong() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await together(patient(), brief(), wrong())
    assert ended == ["patient"]


async def test_a_duty_is_done_on_news_in_time_and_after_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay_operator.cluster.duty.AGAIN", 0.0)
    times: list[float] = []
    answers: list[float | Exception | None] = [0.0, RuntimeError("once"), None]

    async def keep(now: float) -> float | None:
        times.append(now)
        answer = answers.pop(0) if answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    news = asyncio.Event()
    task = asyncio.ensure_future(duty("test", keep, news, 0.0))
    await until(lambda: len(times) == 3)
    await asyncio.sleep(0.05)
    assert len(times) == 3  # "never" is never
    news.set()
    await until(lambda: len(times) == 4)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
