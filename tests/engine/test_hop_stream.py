"""Stage.Run where the network fails: who never answers, takes nothing, or is cut off is lost, and that is told once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import grpc
import pytest

from engine.rig import Loop, Rig, formations, formed, greedy, until
from engine.stranger import QUICK, frame
from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker import hop_stream
from forebay_worker.formation import Phase
from forebay_worker.frame import HopLost
from forebay_worker.hop import Key, Pace, Peer
from forebay_worker.hop_inbound import Inbound

Tiny = Callable[[str], Path]


class Wall:
    """Takes TCP connections, and nothing from them: a peer whose cable is pulled, as seen from here."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.tcp = f"127.0.0.1:{self._sock.getsockname()[1]}"

    def close(self) -> None:
        self._sock.close()


class Losses:
    """Who was lost, as often as we are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Key, str]] = []

    def __call__(self, key: Key, reason: str) -> None:
        self.told.append((key, reason))


def test_who_never_answers_is_lost_once(loop: Loop) -> None:
    losses, key = Losses(), Key(Epoch(9, 1), 0)
    with closing(Wall()) as wall:
        hop = hop_stream.StreamHop(key, Peer("", wall.tcp), losses, QUICK, loop.loop, None)
        hop.send(frame(key, tokens=[1]), None)
        until(lambda: losses.told, "the loss is told")
        with pytest.raises(HopLost, match="silent"):
            hop.send(frame(key, tokens=[1]), None)
        hop.close()
        time.sleep(0.1)
        assert [lost for lost, _ in losses.told] == [key]


def test_frames_that_nobody_takes_are_bounded(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop_stream, "QUEUED_FRAMES", 3)
    losses, key = Losses(), Key(Epoch(9, 2), 0)
    with closing(Wall()) as wall:
        hop = hop_stream.StreamHop(key, Peer("", wall.tcp), losses, Pace(), loop.loop, None)
        for _ in range(3):
            hop.send(frame(key, tokens=[1]), None)
        with pytest.raises(HopLost, match="untaken"):
            hop.send(frame(key, tokens=[1]), None)
        hop.close()
    assert losses.told == []


def test_what_we_close_is_not_told(rig: Rig, loop: Loop) -> None:
    losses, key, node = Losses(), Key(Epoch(9, 3), 0), rig.node()
    node.hops.announce(key)
    for peer in (Peer(node.hops.unix, ""), Peer("", node.tcp)):
        hop = rig.node().hops.connect(key, peer)
        hop.close()
        hop.close()
        assert losses.told == []


class Cable:
    """Forwards TCP connections to a worker, until it is pulled: from then on nothing crosses, and nobody is told."""

    def __init__(self, loop: Loop, target: str) -> None:
        self._loop, self._target = loop, target
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = loop.do(asyncio.start_server(self._carry, "127.0.0.1", 0))
        self.tcp = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def pull(self) -> None:
        self._loop.loop.call_soon_threadsafe(self._whole.clear)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        onward, back = await asyncio.open_connection(host, int(port))
        self._tasks |= {asyncio.create_task(self._one_way(*way)) for way in ((reader, back), (onward, writer))}

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()

    def close(self) -> None:
        self._loop.do(self._end())

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_a_pulled_cable_breaks_the_pipeline_at_every_stage(rig: Rig, tiny: Tiny, loop: Loop) -> None:
    """Only the way to the middle one: the others still hear each other."""
    rig.pace = Pace(heartbeat=0.1, silence=2.0)
    folder, epoch = tiny("llama"), Epoch(9, 4)
    nodes = [rig.node(unix=False) for _ in range(3)]
    with closing(Cable(loop, nodes[1].tcp)) as cable:
        nodes[1].tcp = cable.tcp
        for formation, node in zip(formations(folder, epoch, nodes), nodes, strict=True):
            node.prepare(folder)
            node.land(folder)
            node.executor.form(formation)
        reader = rig.ask(nodes[2], epoch, (1, 2, 3), max_tokens=0)
        reader.read(3)
        cable.pull()
        ended = reader.wait().ended
        assert ended is not None
        assert ended.reason == "pipeline_gone"
        assert reader.tokens() == greedy(folder, (1, 2, 3), len(reader.tokens()))
        for node in nodes:
            until(lambda node=node: formed(node, epoch, Phase.BROKEN), "the break has come round")
        reasons = [status.reason for node in nodes[:2] if (status := node.status(epoch))]
        assert any("silent" in reason for reason in reasons)


class Slow:
    """A call whose beats take a while to go out."""

    def __init__(self) -> None:
        self.writing = False
        self.status: tuple[grpc.StatusCode, str, bool] | None = None

    async def write(self, _: stage_pb2.Beat) -> None:
        self.writing = True
        await asyncio.sleep(0.1)
        self.writing = False

    async def read(self) -> object:
        await asyncio.sleep(0.02)  # the beat has begun
        return grpc.aio.EOF

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status = code, details, self.writing


def test_a_call_ends_after_the_beat_that_is_on_its_way(loop: Loop) -> None:
    """gRPC refuses to send a status beside it, and the neighbour would wait until its own patience ends."""
    context = Slow()
    service = hop_stream.StageService(Inbound(lambda *_: None, lambda *_: None, QUICK), QUICK)
    loop.do(service.Run(None, context))  # type: ignore[arg-type]
    assert context.status == (grpc.StatusCode.FAILED_PRECONDITION, "connection closed", False)
