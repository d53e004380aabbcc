"""A pipeline while it forms: whose frames wait, whose are refused, and what a stage that cannot be leaves behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.rig import Rig, formations, formed, greedy, opened, text_of, until
from forebay_api.model import Epoch
from forebay_wire.v1 import stage_pb2
from forebay_worker import hop, segment, stage
from forebay_worker.formation import FaultReason, Phase
from forebay_worker.frame import epoch_message, write
from forebay_worker.hop import Key
from forebay_worker.model.skeleton import Skeleton

Tiny = Callable[[str], Path]


def test_frames_wait_for_a_form_that_is_being_prepared(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "FORM_SECONDS", 0.1)
    folder, epoch = tiny("llama"), Epoch(5, 1)
    nodes = [rig.node(), rig.node()]
    first, head = formations(folder, epoch, nodes)
    nodes[0].executor.announce(first)
    for node in nodes:
        node.prepare(folder)
        node.land(folder)
    nodes[1].executor.form(head)
    prompt = tuple(range(200))  # more than a socket holds: its sender must not be held by it
    reader = rig.ask(nodes[1], epoch, prompt, max_tokens=3)
    time.sleep(0.4)  # four times what an unknown pipeline would get
    assert formed(nodes[1], epoch)
    nodes[0].executor.form(first)
    assert reader.wait().tokens() == greedy(folder, prompt, 3)


def test_who_waits_for_a_form_that_is_refused_learns_it(rig: Rig, tiny: Tiny) -> None:
    folder, epoch = tiny("llama"), Epoch(5, 2)
    nodes = [rig.node(), rig.node()]
    first, head = formations(folder, epoch, nodes)
    nodes[0].executor.announce(first)
    nodes[1].prepare(folder)
    nodes[1].executor.form(head)
    until(lambda: formed(nodes[1], epoch), "the head is formed")
    nodes[0].executor.refuse(first)
    until(lambda: formed(nodes[1], epoch, Phase.BROKEN), "the head knows")


def test_a_frame_never_overtakes_the_form_it_waited_for(rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, epoch = tiny("llama"), Epoch(5, 3)
    nodes = [rig.node(), rig.node()]
    first, head = formations(folder, epoch, nodes)
    for node in nodes:
        node.prepare(folder)
        node.land(folder)
    nodes[1].executor.form(head)
    reader = rig.ask(nodes[1], epoch, (1, 2, 3), max_tokens=3)
    time.sleep(0.1)  # the frame waits at node 0
    real = nodes[0].hops.expect
    monkeypatch.setattr(nodes[0].hops, "expect", lambda key: (real(key), time.sleep(0.2)))
    nodes[0].executor.form(first)
    assert reader.wait().tokens() == greedy(folder, (1, 2, 3), 3)


def test_a_late_frame_closes_its_connection(rig: Rig, tiny: Tiny) -> None:
    """Who sent it would else wait for ever for what becomes of it."""
    folder = tiny("llama")
    node, key = rig.node(), Key(Epoch(5, 4), 0)
    node.prepare(folder)
    node.hops.expect(key)  # as if its pipeline had gone just now
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(node.hops.unix)
        one = stage_pb2.Slice(length=1, blocks=[0])
        write(sock, stage_pb2.Frame(epoch=epoch_message(key.epoch), stage=0, tokens=[1], slices=[one]), None)
        assert sock.recv(1) == b""


def test_a_device_that_fails_at_forming_is_said_and_keeps_nothing(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(segment, "KvStore", no_memory)
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(tiny("llama"), nodes)
    for node in nodes:
        until(lambda node=node: formed(node, epoch, Phase.BROKEN), "it says so")
        status = node.status(epoch)
        assert status is not None
        assert "CUDA out of memory" in status.reason
        assert node.device.memory.used == 0
    names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
    until(lambda: not any(name.startswith(f"hop-{epoch}") for name in names()), "its connections are closed")


def test_connections_over_the_limit_are_closed_and_the_next_one_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "INBOUND", 2)
    node = rig.node()

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(0.3)
        sock.connect(node.hops.unix)
        return sock

    def stays(sock: socket.socket) -> bool:
        try:
            return sock.recv(1) != b""
        except TimeoutError:
            return True

    kept = [connect(), connect()]
    with connect() as third:
        assert not stays(third)
    assert all(map(stays, kept))
    for sock in kept:
        sock.close()
    with connect() as fourth:
        assert stays(fourth)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_thread_that_ends_is_a_fault(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    node = rig.node()

    def end(executor: stage.Executor) -> None:
        raise SystemError("nobody thought of this")

    monkeypatch.setattr(stage.Executor, "_publish", end)
    node.executor.cancel("nobody")
    until(node.executor.faults, "the fault is seen")
    assert [fault.reason for fault in node.executor.faults()] == [FaultReason.DEVICE_ERROR]


def test_a_skeleton_is_forgotten_only_when_nothing_needs_it(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    checkpoint = opened(folder)
    node.executor.forget(checkpoint.model.backbone)
    assert rig.ask(node, epoch, (1, 2), max_tokens=2).wait().tokens() == greedy(folder, (1, 2), 2)
    node.executor.dissolve(epoch, "enough")
    gone = threading.Event()
    node.executor.drop(checkpoint.model.backbone, (), lambda units: gone.set())
    assert gone.wait(10)
    node.executor.forget(checkpoint.model.backbone)
    node.executor.prepare(checkpoint, Skeleton.build(checkpoint), text_of(folder))
    node.land(folder)
    again = rig.form(folder, [node])
    assert rig.ask(node, again, (1, 2), max_tokens=2).wait().tokens() == greedy(folder, (1, 2), 2)
