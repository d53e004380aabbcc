"""Between threads: events on their way to a slow reader, and units that land before their skeleton is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from forebay_worker.artifact.errors import INVALID_CHECKPOINT, CheckpointError
from forebay_worker.device import Memory
from forebay_worker.engine.request import Accepted, Ended, Event, Refused, TokenOut
from forebay_worker.holdings import Holdings
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.load.plan import Phase
from forebay_worker.load.stream import Landed, UnitLoad
from forebay_worker.prepare import Preparations
from forebay_worker.service import OUTBOX_EVENTS, Outbox
from forebay_worker.shelf import CAPACITY
from forebay_worker.turns import Turns


async def test_events_arrive_in_order_from_another_thread() -> None:
    outbox = Outbox(asyncio.get_running_loop(), lambda: None)
    sent: list[Event] = [Accepted(3), TokenOut(0, 0, 7, "a"), Ended()]
    await asyncio.to_thread(lambda: [outbox.put(event) for event in sent])
    assert [await outbox.get() for _ in sent] == sent


async def test_a_reader_that_is_too_slow_loses_its_request_and_nobody_waits() -> None:
    cancelled: list[bool] = []
    outbox = Outbox(asyncio.get_running_loop(), lambda: cancelled.append(True))
    for index in range(OUTBOX_EVENTS + 10):
        outbox.put(TokenOut(0, index, 7, "a"))
    await asyncio.sleep(0)
    assert cancelled == [True]
    assert outbox.overflown
    assert await outbox.get() == Ended(Refused.CANCELLED)


async def test_turns_keep_the_order_of_a_key_and_survive_errors() -> None:
    turns, gate = Turns(), asyncio.Event()
    done: asyncio.Queue[str] = asyncio.Queue()

    async def work(name: str, wait: bool = False) -> None:
        if wait:
            await gate.wait()
        done.put_nowait(name)
        if name == "bad":
            raise ValueError(name)

    turns.start("hold", work("first", wait=True), "a")
    turns.start("hold", work("bad"), "a")
    turns.start("hold", work("last"), "a")
    turns.start("hold", work("other"), "b")
    turns.start("hold", work("none"))
    assert {await done.get(), await done.get()} == {"none", "other"}
    gate.set()
    assert [await done.get() for _ in range(3)] == ["first", "bad", "last"]
    await turns.close()


@dataclass
class Recorded:
    """Stands for the device thread, and for a loader whose units have all landed."""

    calls: list[tuple[str, object]] = field(default_factory=list)
    there: set[int] = field(default_factory=set)

    def prepare(self, checkpoint: Any, skeleton: object, text: object) -> None:
        self.calls.append(("prepare", checkpoint.model.backbone))

    def suspect(self, error: Exception) -> None:
        self.calls.append(("suspect", str(error)))

    def landed(self, unit: Landed) -> None:
        self.calls.append(("landed", unit.unit))

    def hold(self, checkpoint: object, order: list[int], urgent: int) -> None:
        self.there |= set(order)

    def forget(self, backbone: str, units: list[int] | None) -> None:
        self.there -= set(units) if units else self.there

    def states(self, backbone: str) -> tuple[UnitLoad, ...]:
        return tuple(UnitLoad(unit, Phase.RESIDENT) for unit in sorted(self.there))

    def wanted(self, unit: Landed) -> bool:
        return unit.unit in self.there


async def test_units_wait_for_their_skeleton_and_may_be_dropped_meanwhile(tiny: Callable[[str], Path]) -> None:
    parts = Recorded()
    holdings = Holdings(cast("Any", parts), cast("Any", parts), lambda: None)
    checkpoint = open_checkpoint(tiny("llama").as_uri())
    backbone, memory = checkpoint.model.backbone, Memory(100)
    holdings.hold(checkpoint, [2, 1, 3], 0)
    for unit in (2, 1, 3):
        holdings.landed(Landed(backbone, unit, {}, memory.reserve("test", 10)))
    assert (parts.calls, memory.used) == ([], 30)
    await holdings.drop(backbone, [1])
    assert memory.used == 20
    assert holdings.seen()[backbone].order == (2, 3)
    holdings.prepared(cast("Any", SimpleNamespace(backbone=backbone, checkpoint=checkpoint, skeleton=None, text=None)))
    holdings.landed(Landed(backbone, 4, {}, memory.reserve("test", 10)))
    assert parts.calls == [("prepare", backbone), ("landed", 2), ("landed", 3), ("landed", 4)]


async def test_a_unit_that_lands_after_all_was_dropped_gives_its_memory_back(tiny: Callable[[str], Path]) -> None:
    parts = Recorded()
    holdings = Holdings(cast("Any", parts), cast("Any", parts), lambda: None)
    checkpoint = open_checkpoint(tiny("llama").as_uri())
    memory = Memory(100)
    holdings.hold(checkpoint, [1], 0)
    await holdings.drop(checkpoint.model.backbone, [])
    assert not holdings.seen()
    holdings.landed(Landed(checkpoint.model.backbone, 1, {}, memory.reserve("test", 10)))
    assert memory.used == 0


async def test_a_copy_that_the_driver_ends_accuses_the_device_and_a_file_does_not() -> None:
    parts = Recorded()
    holdings = Holdings(cast("Any", parts), cast("Any", parts), lambda: None)
    holdings.failed("any", CheckpointError(INVALID_CHECKPOINT, "cut short"))
    assert parts.calls == []
    holdings.failed("any", torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert [name for name, _ in parts.calls] == ["suspect"]


async def test_a_unit_that_nobody_uses_is_let_go_when_its_copy_has_ended() -> None:
    """Or torch's pool would give memory away that the copy stream still writes to."""
    memory = Memory(100)
    said: list[tuple[str, int]] = []
    event = SimpleNamespace(synchronize=lambda: said.append(("waited", memory.used)))
    Landed("b", 1, {}, memory.reserve("test", 10), cast("Any", event)).discard()
    assert (said, memory.used) == ([("waited", 10)], 0)


class Shelves:
    """Stands for a seat whose shelf builds nothing."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.shelf = cast("Any", self)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def build(self, checkpoint: Any) -> Any:
        return SimpleNamespace(backbone=checkpoint.model.backbone)

    def remove(self, backbone: str) -> None:
        self.removed.append(backbone)

    def ask_to_prepare(self, *about: str) -> None: ...


async def test_of_the_skeletons_that_hold_and_run_nothing_only_the_last_used_are_kept() -> None:
    seat, unprepared = Shelves(), list[str]()
    held: dict[str, object] = {"m0": None}
    holdings = SimpleNamespace(seen=lambda: held, prepared=lambda parts: None, unprepared=unprepared.append)
    executor = SimpleNamespace(pipelines=lambda: (SimpleNamespace(backbone="m1"),))
    preparations = Preparations(cast("Any", seat), cast("Any", holdings), cast("Any", executor), lambda: None)
    checkpoints = [
        SimpleNamespace(model=SimpleNamespace(backbone=f"m{index}", uri="", dtype="")) for index in range(CAPACITY + 2)
    ]
    for checkpoint in checkpoints[:CAPACITY]:
        await preparations.begin(cast("Any", checkpoint))
    assert preparations.parts("m2")  # a request, just now
    for checkpoint in checkpoints[CAPACITY:]:
        await preparations.begin(cast("Any", checkpoint))
    assert unprepared == ["m3", "m4"]
    assert preparations.parts("m3") is None
    assert len(preparations.seen()) == CAPACITY + 2  # it can be prepared: nobody is to order it again
    held.clear()
    assert (await preparations.begin(cast("Any", checkpoints[3]))).backbone == "m3"
    assert unprepared == ["m3", "m4", "m0"]
    preparations.close()
    await asyncio.to_thread(lambda: None)
    assert seat.removed[:2] == ["m3", "m4"]
