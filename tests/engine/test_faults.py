"""Whatever fails in a pipeline ends that pipeline at every stage, within moments, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY

from engine.rig import Rig, formations, formed, greedy, opened, prompts, until
from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker import hop, stage
from forebay_worker.engine.blocks import BlockPool
from forebay_worker.formation import FaultReason, Phase
from forebay_worker.frame import epoch_message, write
from forebay_worker.hop import Key

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_stage_that_dies_breaks_the_whole_ring(rig: Rig, tiny: Tiny, dies: int) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 3)
    other = rig.form(folder, [nodes[2]])
    reader = rig.ask(nodes[2], epoch, (1, 2, 3), max_tokens=0)
    reader.read(3)
    nodes[dies].close()
    if dies < 2:
        ended = reader.wait().ended
        assert ended is not None
        assert ended.reason == "pipeline_gone"
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


def test_a_step_that_raises_is_a_fault_of_its_pipeline_alone(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick, well = tiny("llama"), tiny("qwen2")
    nodes, epoch = rig.pipeline(sick, 2)
    other = rig.form(well, [nodes[0]])
    nodes[0].land(well)

    def burn(*args: object) -> torch.Tensor:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(nodes[0].skeletons[opened(sick).model.backbone], "layer", burn)
    ended = rig.ask(nodes[1], epoch, (1, 2)).wait().ended
    assert ended is not None
    assert ended.reason == "pipeline_gone"
    (fault,) = nodes[0].executor.faults()
    assert fault.reason is FaultReason.DEVICE_ERROR
    assert "on fire" in fault.message
    assert not nodes[1].executor.faults()
    assert rig.ask(nodes[0], other, (5, 6), max_tokens=5).wait().tokens() == greedy(well, (5, 6), 5)


def test_not_a_number_is_a_fault_and_no_token(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    skeleton = nodes[0].skeletons[opened(folder).model.backbone]
    real = skeleton.layer
    reader = rig.ask(nodes[1], epoch, (1, 2), max_tokens=0)
    reader.read(2)
    monkeypatch.setattr(skeleton, "layer", lambda *args: real(*args) * torch.nan)
    ended = reader.wait().ended
    assert ended is not None
    assert ended.reason == "pipeline_gone"
    assert [fault.reason for fault in nodes[1].executor.faults()] == [FaultReason.NOT_A_NUMBER]
    assert reader.tokens() == greedy(folder, (1, 2), len(reader.tokens()))


def test_no_memory_for_its_blocks_is_said(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    node = rig.node(memory=1 << 20)
    epoch = rig.form(folder, [node], blocks=10_000)
    until(lambda: node.status(epoch), "the form is reported")
    status = node.status(epoch)
    assert status is not None
    assert status.phase is Phase.BROKEN
    assert "1048576" in status.reason
    assert node.device.memory.used == 0
    node.executor.dissolve(epoch, "it never was")
    until(lambda: not node.executor.pipelines(), "it is not reported any more")


def test_a_backbone_that_is_not_prepared_is_said(rig: Rig, tiny: Tiny) -> None:
    node, epoch = rig.node(), Epoch(1, 10**6)
    node.executor.form(formations(tiny("llama"), epoch, [node])[0])
    until(lambda: formed(node, epoch, Phase.BROKEN), "the form is reported")
    status = node.status(epoch)
    assert status is not None
    assert "not prepared" in status.reason


def test_a_neighbour_that_cannot_be_reached_breaks_the_pipeline(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    nodes = [rig.node(), rig.node()]
    nodes[0].hops.close()
    epoch = rig.form(folder, nodes)
    until(lambda: formed(nodes[1], epoch, Phase.BROKEN), "the head has noticed")


def frame(key: Key, **fields: object) -> stage_pb2.Frame:
    return stage_pb2.Frame(epoch=epoch_message(key.epoch), stage=key.stage, **fields)  # type: ignore[arg-type]


def closed(sock: socket.socket) -> bool:
    """Waits until the other side has closed it."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # it had not read all we sent
        return True


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    return sock


@pytest.mark.parametrize("key", [Key(Epoch(7, 7), 0), None], ids=["never formed", "dissolved"])
def test_frames_of_a_pipeline_that_is_not_here_are_refused(
    rig: Rig, tiny: Tiny, key: Key | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "FORM_SECONDS", 0.3)
    nodes = [rig.node(), rig.node()]
    if key is None:
        epoch = rig.form(tiny("llama"), nodes)
        key = Key(epoch, 0)
        nodes[0].executor.dissolve(epoch, "not wanted")
        until(lambda: not nodes[0].executor.pipelines(), "dissolved")
    with connect(nodes[0].hops.unix) as sock:
        write(sock, frame(key, tokens=[1], slices=[stage_pb2.Slice(length=1, blocks=[0])]), None)
        assert closed(sock)
    assert nodes[0].executor.counters.steps == 0


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
    with connect(nodes[0].hops.unix) as sock:
        sock.sendall(GARBAGE[what])
        sock.shutdown(socket.SHUT_WR)
        assert closed(sock)
    assert rig.ask(nodes[1], epoch, (1, 2), max_tokens=3).wait().tokens() == greedy(folder, (1, 2), 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "float32", "shape": [2, 3]},
        {"dtype": "float32", "shape": [1, 1]},
        {"dtype": "complex64", "shape": [1, 1]},
        {"tokens": [1, 2, 3]},
        {"stage": 1},
    ],
)
def test_a_frame_that_does_not_fit_breaks_the_pipeline(rig: Rig, tiny: Tiny, fields: dict[str, object]) -> None:
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(tiny("llama"), nodes)
    tensor = torch.zeros(1, 1) if "dtype" in fields else None
    with connect(nodes[0].hops.unix) as sock:
        write(sock, frame(Key(epoch, 0), heartbeat=True), None)
        wrong = frame(Key(epoch, 0), slices=[stage_pb2.Slice(length=1, blocks=[0])])
        wrong.MergeFrom(stage_pb2.Frame(**fields))  # type: ignore[arg-type]
        write(sock, wrong, tensor)
        for node in nodes:
            until(lambda node=node: formed(node, epoch, Phase.BROKEN), "both stages know")


def test_over_tcp_where_no_socket_folder_is_shared(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("qwen3")
    nodes = [rig.node(unix=False) for _ in range(3)]
    epoch = rig.form(folder, nodes)
    for node in nodes:
        node.land(folder)
    assert rig.ask(nodes[2], epoch, (1, 2, 3), max_tokens=8).wait().tokens() == greedy(folder, (1, 2, 3), 8)
    assert nodes[0].executor.counters.hop_frames == 8
    assert nodes[0].executor.counters.hop_bytes > 8 * opened(folder).model.hidden_size * 4


def test_a_neighbour_may_compute_for_longer_than_its_silence(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats do not come from the device thread."""
    monkeypatch.setattr(hop, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(hop, "HEARTBEAT_SECONDS", 0.1)
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    skeleton = nodes[0].skeletons[opened(folder).model.backbone]
    real = skeleton.layer
    monkeypatch.setattr(skeleton, "layer", lambda *args: (time.sleep(1.0), real(*args))[1])
    assert rig.ask(nodes[1], epoch, (1, 2), max_tokens=1).wait().tokens() == greedy(folder, (1, 2), 1)


def test_a_silent_neighbour_is_gone(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(hop, "HEARTBEAT_SECONDS", 0.1)
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(tiny("llama"), nodes)
    with connect(nodes[0].hops.unix) as sock:
        write(sock, frame(Key(epoch, 0), heartbeat=True), None)
        until(lambda: formed(nodes[0], epoch, Phase.BROKEN), "three seconds of silence, shortened")
    status = nodes[0].status(epoch)
    assert status is not None
    assert "silent" in status.reason


def test_books_that_do_not_add_up_are_counted(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("forebay_integrity_failures_total") or 0.0

    (node,), epoch = rig.pipeline(tiny("llama"), 1)
    before = count()
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    checked = threading.Event()
    real = BlockPool.check
    monkeypatch.setattr(BlockPool, "check", lambda pool: (real(pool), checked.set())[0])
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    assert checked.wait(10)
    assert count() == before
    monkeypatch.setattr(BlockPool, "free", 1)
    rig.ask(node, epoch, (1, 2), max_tokens=2).wait()
    until(lambda: count() == before + 1, "the failure is counted")
    monkeypatch.undo()


def test_an_operation_that_takes_too_long_is_seen_from_outside(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "OVERDUE_SECONDS", 0.05)
    (node,), epoch = rig.pipeline(tiny("llama"), 1)
    skeleton = node.skeletons[opened(tiny("llama")).model.backbone]
    real, hangs = skeleton.layer, threading.Event()

    def hang(*args: object) -> torch.Tensor:
        hangs.wait(10)
        return real(*args)

    monkeypatch.setattr(skeleton, "layer", hang)
    reader = rig.ask(node, epoch, (1, 2), max_tokens=2)
    until(node.executor.faults, "the fault is seen")
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.STEP_OVERDUE]
    hangs.set()
    assert len(reader.wait().tokens()) == 2
    until(lambda: not node.executor.faults(), "it is over")
