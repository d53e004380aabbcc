"""A pipeline while it forms: whose frames wait, whose are refused, and what a stage that cannot be leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.rig import Rig, formations, formed, greedy, opened, text_of, until
from forebay_api.model import Epoch
from forebay_worker import segment, stage, watches
from forebay_worker.artifact.errors import CheckpointError
from forebay_worker.checkpoints import Ref
from forebay_worker.formation import FaultReason, Phase
from forebay_worker.hop import Pace
from forebay_worker.model.skeleton import Skeleton
from forebay_worker.turns import Turns

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("unix", [True, False], ids=["socket", "stream"])
def test_frames_wait_for_a_form_that_is_being_prepared(rig: Rig, tiny: Tiny, unix: bool) -> None:
    rig.pace = Pace(heartbeat=0.05, form=0.1)
    folder, epoch = tiny("llama"), Epoch(5, 1)
    nodes = [rig.node(unix=unix) for _ in range(2)]
    first, head = formations(folder, epoch, nodes)
    nodes[0].executor.announce(first)
    for node in nodes:
        node.prepare(folder)
        node.land(folder)
    nodes[1].executor.form(head)
    prompt = tuple(range(200))  # more than a socket holds: its sender must not be held by it
    reader = rig.ask(nodes[1], epoch, prompt, max_tokens=3)
    until(lambda: formed(nodes[1], epoch), "the head is formed")
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


class Condemned:
    """Holdings of a backbone that turns out damaged."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()

    async def drop(self, backbone: str, units: Collection[int]) -> None:
        pass

    def refuse(self, ref: Ref, error: str) -> None:
        self.refused.set()


async def test_a_form_that_waits_for_the_device_thread_does_not_escape_damage(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Callable[[CheckpointError], None]] = []
    monkeypatch.setattr(watches, "Watch", lambda artifact, spans, damaged: found.append(damaged))
    checkpoint: Any = SimpleNamespace(model=opened(tiny("llama")).model, artifact="somewhere", tensors=())
    holdings: Any = Condemned()
    node, busy, done, turns = rig.node(), threading.Event(), threading.Event(), Turns()
    ref = Ref(checkpoint.model.backbone, "hf://somewhere", "auto")
    watches.Watches(holdings, node.executor, turns).begin(ref, checkpoint)

    def occupy(units: Collection[int]) -> None:
        busy.wait(10)

    node.executor.drop("another", (0,), occupy)  # the device thread
    rig.form(tiny("llama"), [node])
    found[0](CheckpointError("ChecksumMismatch", "other bytes than they should be"))
    async with asyncio.timeout(10):
        await holdings.refused.wait()
    busy.set()
    node.executor.drop("another", (0,), lambda units: done.set())
    assert done.wait(10)
    assert node.executor.pipelines() == ()
    assert node.device.memory.used == 0
    await turns.close()
