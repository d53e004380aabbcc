"""What stopped for a reason that passes goes on by itself; what a person must put right is forgotten after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from forebay_worker import watches
from forebay_worker.turns import Turns
from forebay_worker.watches import Watches


class Held:
    """Holdings that say what a test wants them to."""

    def __init__(self, error: str) -> None:
        self.errors = {"b": error}
        self.dropped = asyncio.Event()

    def seen(self) -> dict[str, Any]:
        return {backbone: SimpleNamespace(error=error) for backbone, error in self.errors.items()}

    def checkpoint(self, backbone: str) -> None:
        return None

    async def drop(self, backbone: str, units: Collection[int]) -> None:
        assert not units
        self.errors.pop(backbone)
        self.dropped.set()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(watches, "FORGET_SECONDS", dict.fromkeys(watches.FORGET_SECONDS, 0.02))


@pytest.mark.parametrize("reason", ["SourceUnavailable", "CacheFull"])
async def test_what_passes_is_tried_again_until_it_went_well(reason: str) -> None:
    held, turns, tries, well = Held(f"{reason}: away"), Turns(), [0], asyncio.Event()
    kept = Watches(held, None, turns)  # type: ignore[arg-type]  # of the executor nothing is asked here

    async def again() -> None:
        tries[0] += 1
        if tries[0] == 3:
            held.errors["b"] = ""
            well.set()

    kept.retry("b", again)
    async with asyncio.timeout(20):
        await well.wait()
    await asyncio.sleep(0.05)  # some more looks
    assert tries == [3]
    kept.close()
    await turns.close()


@pytest.mark.parametrize("reason", ["Unauthorized", "ChecksumMismatch"])
async def test_what_a_person_must_put_right_is_forgotten_so_that_we_are_told_again(reason: str) -> None:
    held, turns, tries = Held(f"{reason}: no"), Turns(), [0]
    kept = Watches(held, None, turns)  # type: ignore[arg-type]

    async def again() -> None:
        tries.append(1)

    kept.retry("b", again)
    async with asyncio.timeout(20):
        await held.dropped.wait()
    assert tries == [0], "the same once more would end the same"
    kept.close()
    await turns.close()


async def test_what_is_broken_stays_so() -> None:
    held, turns = Held("InvalidCheckpoint: nonsense"), Turns()
    kept = Watches(held, None, turns)  # type: ignore[arg-type]

    async def again() -> None:
        held.errors.clear()

    kept.retry("b", again)
    await asyncio.sleep(0.1)
    assert held.errors == {"b": "InvalidCheckpoint: nonsense"}
    kept.close()
    await turns.close()


@pytest.mark.parametrize("newer", ["held anew", "dropped", "told anew"])
@pytest.mark.parametrize("reason", ["SourceUnavailable", "Unauthorized"])
async def test_what_was_told_while_it_waited_for_its_turn_counts_more(reason: str, newer: str) -> None:
    held, turns, tries, gate = Held(f"{reason}: no"), Turns(), [0], asyncio.Event()
    kept = Watches(held, None, turns)  # type: ignore[arg-type]

    async def again() -> None:
        tries.append(1)

    async def other() -> None:
        """What the newer command brings."""

    async def command() -> None:
        await gate.wait()
        if newer == "dropped":
            held.errors.clear()
        elif newer == "held anew":
            held.errors["b"] = ""
        else:
            held.errors["b"] = "CacheFull: another matter"
            kept.retry("b", other)

    turns.start("command", command(), "b")
    kept.retry("b", again)
    await asyncio.sleep(0.1)  # several looks, whose work is in line
    kept.close()
    gate.set()
    await asyncio.sleep(0.05)
    assert tries == [0]
    assert not held.dropped.is_set()
    await turns.close()
