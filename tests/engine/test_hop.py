"""The hop between stages, the same promises over a unix socket and by Stage.Run: whose frames are taken, whose are
refused, and that both ends learn of an end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.rig import Node, Rig, formed, greedy, opened, prompts, until
from engine.stranger import ONE, QUICK, BySocket, ByStream, Stranger, frame
from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker import hop_inbound
from forebay_worker.formation import Phase
from forebay_worker.hop import Key, Pace

Tiny = Callable[[str], Path]


@pytest.fixture(params=[BySocket, ByStream], ids=["socket", "stream"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Callable[..., Stranger]]:
    """Opens such connections."""
    made: list[Stranger] = []

    def make(node: Node, *args: float) -> Stranger:
        made.append(request.param(node, *args))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=[True, False], ids=["socket", "stream"])
def unix(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_the_tokens_of_transformers_by_stage_run(rig: Rig, tiny: Tiny, stages: int) -> None:
    folder = tiny("qwen3")
    nodes, epoch = rig.pipeline(folder, stages, unix=False)
    asked = prompts(folder, 3)
    readers = [rig.ask(nodes[-1], epoch, prompt, max_tokens=8) for prompt in asked]
    assert [reader.wait().tokens() for reader in readers] == [greedy(folder, prompt, 8) for prompt in asked]
    assert nodes[0].executor.counters.hop_frames >= 8
    assert nodes[0].executor.counters.hop_bytes > 8 * opened(folder).model.hidden_size * 4


def test_workers_of_two_nodes_use_what_each_pair_can(rig: Rig, tiny: Tiny, tmp_path: Path) -> None:
    """A socket that is there and that nobody listens at is one of another node, in a folder that nodes share."""
    folder = tiny("llama")
    nodes, epoch = [rig.node(), rig.node(unix=False), rig.node()], Epoch(8, 1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    nodes[1].hops.unix = str(tmp_path / "s")
    epoch = rig.form(folder, nodes)
    for node in nodes:
        node.land(folder)
    assert rig.ask(nodes[2], epoch, (1, 2, 3), max_tokens=5).wait().tokens() == greedy(folder, (1, 2, 3), 5)


def test_long_frames_cross_in_pieces(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay_worker.frame.PIECE", 1000)
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 3, unix=False)
    prompt = tuple(range(100))
    assert rig.ask(nodes[2], epoch, prompt, max_tokens=3).wait().tokens() == greedy(folder, prompt, 3)


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_stage_that_dies_breaks_the_whole_ring(rig: Rig, tiny: Tiny, dies: int, unix: bool) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 3, unix=unix)
    other = rig.form(folder, [nodes[2]])
    reader = rig.ask(nodes[2], epoch, (1, 2, 3), max_tokens=0)
    reader.read(3)
    nodes[dies].close()
    if dies < 2:
        ended = reader.wait().ended
        assert ended is not None
        assert ended.reason == "pipeline_gone"
        assert reader.tokens() == greedy(folder, (1, 2, 3), len(reader.tokens()))
    for index, node in enumerate(nodes):
        if index != dies:
            until(lambda node=node: formed(node, epoch, Phase.BROKEN), "the break has come round")
            status = node.status(epoch)
            assert status is not None
            assert status.reason
            assert status.kv_bytes == 0
            assert not node.executor.faults()
    if dies < 2:
        nodes[2].land(folder)
        prompt = prompts(folder, 1)[0]
        assert rig.ask(nodes[2], other, prompt, max_tokens=5).wait().tokens() == greedy(folder, prompt, 5)


def test_a_neighbour_that_cannot_be_reached_breaks_the_pipeline(rig: Rig, tiny: Tiny, unix: bool) -> None:
    nodes = [rig.node(unix=unix) for _ in range(2)]
    nodes[0].close()
    epoch = rig.form(tiny("llama"), nodes)
    until(lambda: formed(nodes[1], epoch, Phase.BROKEN), "the head has noticed")
    status = nodes[1].status(epoch)
    assert status is not None
    assert f"cannot reach {nodes[0].tcp}" in status.reason


@pytest.mark.parametrize("key", [Key(Epoch(7, 7), 0), None], ids=["never formed", "dissolved"])
def test_frames_of_a_pipeline_that_is_not_here_are_refused(
    rig: Rig, tiny: Tiny, key: Key | None, stranger: Callable[..., Stranger]
) -> None:
    rig.pace = QUICK
    nodes = [rig.node(), rig.node()]
    if key is None:
        key = Key(rig.form(tiny("llama"), nodes), 0)
        nodes[0].executor.dissolve(key.epoch, "not wanted")
        until(lambda: not nodes[0].executor.pipelines(), "dissolved")
    other = stranger(nodes[0])
    other.write(frame(key, tokens=[1], slices=[ONE]))
    assert other.ended()
    assert nodes[0].executor.counters.steps == 0


def test_patience_with_a_pipeline_that_nobody_speaks_of_ends(rig: Rig, stranger: Callable[..., Stranger]) -> None:
    """Heartbeats do not keep it."""
    rig.pace = Pace(form=0.2)
    node, key = rig.node(), Key(Epoch(7, 8), 0)
    other = stranger(node)
    other.write(frame(key, tokens=[1], slices=[ONE]))
    time.sleep(0.3)
    other.write(frame(key, heartbeat=True))
    assert other.ended()


def test_frames_that_wait_are_bounded(
    rig: Rig, stranger: Callable[..., Stranger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop_inbound, "EARLY_FRAMES", 3)
    node, key = rig.node(), Key(Epoch(7, 9), 0)
    node.hops.announce(key)
    other = stranger(node)
    for _ in range(4):
        other.write(frame(key, tokens=[1], slices=[ONE]))
    assert other.ended()


def test_a_late_frame_closes_its_connection(rig: Rig, tiny: Tiny, stranger: Callable[..., Stranger]) -> None:
    """Who sent it would else wait for ever for what becomes of it."""
    node, key = rig.node(), Key(Epoch(5, 4), 0)
    node.prepare(tiny("llama"))
    node.hops.expect(key)  # as if its pipeline had gone just now
    other = stranger(node)
    other.write(frame(key, tokens=[1], slices=[ONE]))
    assert other.ended()


def test_connections_over_the_limit_are_closed_and_the_next_one_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, stranger: Callable[..., Stranger]
) -> None:
    monkeypatch.setattr(hop_inbound, "INBOUND", 2)
    rig.pace = Pace(silence=30.0)
    node, key = rig.node(), Key(Epoch(5, 6), 0)
    node.hops.announce(key)

    def come() -> Stranger:
        one = stranger(node, 1.0)
        one.write(frame(key, heartbeat=True))
        return one

    kept = [come(), come()]
    third = stranger(node)
    assert third.ended()
    assert not any(each.ended() for each in kept)
    for each in kept:
        each.close()
    until(lambda: not come().ended(), "there is room again")


GARBAGE = {
    "no frame": b"GET / HTTP/1.1\r\nHost: forebay\r\n\r\n" + b"x" * 64,
    "a header too long": (1 << 31).to_bytes(4, "little") + bytes(8),
    "a payload too long": (1).to_bytes(4, "little") + (1 << 40).to_bytes(8, "little") + b"x",
    "a broken header": (3).to_bytes(4, "little") + bytes(8) + b"\xff\xff\xff",
    "end of file": b"\x01",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_not_a_frame_closes_its_connection_only(rig: Rig, tiny: Tiny, what: str) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    with closing(BySocket(nodes[0])) as other:
        other._sock.sendall(GARBAGE[what])
        other._sock.shutdown(socket.SHUT_WR)
        assert other.ended()
    assert rig.ask(nodes[1], epoch, (1, 2), max_tokens=3).wait().tokens() == greedy(folder, (1, 2), 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "float32", "shape": [2, 3]},
        {"dtype": "float32", "shape": [1, 1]},
        {"dtype": "complex64", "shape": [1, 1]},
        {"dtype": "float32", "shape": [1 << 40, 1 << 40]},
        {"dtype": "float32", "shape": [0, 1 << 63]},
        {"dtype": "float32", "shape": [1]},
        {"tokens": [1, 2, 3]},
        {"stage": 1},
    ],
    ids=str,
)
def test_a_frame_that_does_not_fit_breaks_the_pipeline(
    rig: Rig, tiny: Tiny, fields: dict[str, Any], stranger: Callable[..., Stranger]
) -> None:
    rig.pace = QUICK
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(tiny("llama"), nodes)
    other = stranger(nodes[0])
    other.write(frame(Key(epoch, 0), heartbeat=True))
    wrong = frame(Key(epoch, 0), slices=[ONE])
    wrong.MergeFrom(stage_pb2.Frame(**fields))
    other.write(wrong, torch.zeros(1, 1) if "dtype" in fields else None)
    for node in nodes:
        until(lambda node=node: formed(node, epoch, Phase.BROKEN), "both stages know")


def test_a_frame_within_another_one_breaks_the_pipeline(rig: Rig, tiny: Tiny) -> None:
    node = rig.node()
    epoch = rig.form(tiny("llama"), [node, rig.node()])
    with closing(ByStream(node)) as other:
        other.write(frame(Key(epoch, 0), heartbeat=True))
        half = frame(Key(epoch, 0), slices=[ONE], dtype="float32", shape=[1, 64], payload=b"half")
        other.write(half, torch.zeros(1, 2))
        other.write(frame(Key(epoch, 0), heartbeat=True))
        assert other.ended()
    until(lambda: formed(node, epoch, Phase.BROKEN), "the stage knows")


def test_a_neighbour_may_compute_for_longer_than_its_silence(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, unix: bool
) -> None:
    """Heartbeats do not come from the device thread."""
    rig.pace = Pace(heartbeat=0.1, silence=3.0)
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2, unix=unix)
    skeleton = nodes[0].skeletons[opened(folder).model.backbone]
    real = skeleton.layer
    naps = iter([4.0])
    monkeypatch.setattr(skeleton, "layer", lambda *args: (time.sleep(next(naps, 0.0)), real(*args))[1])
    assert rig.ask(nodes[1], epoch, (1, 2), max_tokens=1).wait().tokens() == greedy(folder, (1, 2), 1)


def test_a_silent_neighbour_is_gone(rig: Rig, tiny: Tiny, stranger: Callable[..., Stranger]) -> None:
    rig.pace = QUICK
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(tiny("llama"), nodes)
    stranger(nodes[0]).write(frame(Key(epoch, 0), heartbeat=True))
    until(lambda: formed(nodes[0], epoch, Phase.BROKEN), "three seconds of silence, shortened")
    status = nodes[0].status(epoch)
    assert status is not None
    assert "silent" in status.reason
