"""What is kept of a cluster when watches fail to tell: kopf's part is played by hand, the lists by a stored API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from cluster.test_shelf import body
from control.actors import until
from forebay_operator.cluster import watch
from forebay_operator.cluster.api import Api, Unreachable
from forebay_operator.cluster.kinds import KINDS, Kind
from forebay_operator.cluster.watch import Watch


class Lists(Api):
    """``exist``: uids, all in ``version``; ``away``: nobody answers."""

    def __init__(self) -> None:
        self.exist: dict[Kind, set[str]] = {}
        self.version = "1"
        self.away = False
        self.asked = 0

    async def versions(self, kind: Kind, namespace: str = "", selector: str = "") -> Mapping[str, str]:
        self.asked += 1
        if self.away:
            raise Unreachable(0, "Unreachable", "refused")
        return dict.fromkeys(self.exist.get(kind, ()), self.version)


class Silent:
    """A listener that tells what a test has it tell."""

    made: list[Silent] = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, watched: Any, take: Any, context: str | None) -> None:
        self.take = take
        self.anew = 0
        self.made.append(self)

    async def run(self) -> None:
        await asyncio.Event().wait()

    def begin_anew(self) -> None:
        self.anew += 1


class Rig:
    def __init__(self) -> None:
        self.api = Lists()
        self.changes = 0
        self.watch = Watch(self.api, "system", changed=self._changed)
        self.everywhere, self.ours = Silent.made
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.task = asyncio.ensure_future(self.watch.run())

    def _changed(self) -> None:
        self.changes += 1

    def tell(self, event: str | None, name: str, uid: str, version: int = 1) -> None:
        self.everywhere.take(KINDS.FUNCTION, event, body(name, uid, version))

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.watch.functions}


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(watch, "Listener", Silent)
    monkeypatch.setattr(watch, "FIRST", 0.01)
    monkeypatch.setattr(watch, "COMPARE", 0.05)
    monkeypatch.setattr(watch, "APART", 0.01)
    Silent.made.clear()
    rig = Rig()
    yield rig
    if rig.task is not None:
        rig.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rig.task


async def test_warm_is_when_all_that_exists_was_shown(rig: Rig) -> None:
    rig.begin()
    rig.api.exist[KINDS.FUNCTION] = {"1", "2"}
    rig.tell(None, "f", "1")
    asked = rig.api.asked
    await until(lambda: rig.api.asked > asked + 20)
    assert not rig.watch.warm.is_set()
    assert rig.changes == 0  # half of what exists is worse than nothing
    rig.tell(None, "g", "2")
    await until(rig.watch.warm.is_set)
    await until(lambda: rig.changes == 1)
    assert rig.names == {"f", "g"}


async def test_blind_is_not_empty(rig: Rig) -> None:
    rig.begin()
    rig.api.exist[KINDS.FUNCTION] = {"1"}
    rig.tell(None, "f", "1")
    await until(rig.watch.warm.is_set)
    rig.api.away = True
    asked = rig.api.asked
    await until(lambda: rig.api.asked > asked + 6)
    assert rig.names == {"f"}


async def test_what_vanished_while_a_watch_was_cut_off_is_forgotten(rig: Rig) -> None:
    rig.begin()
    rig.api.exist[KINDS.FUNCTION] = {"1", "2"}
    rig.tell(None, "f", "1")
    rig.tell(None, "g", "2")
    await until(rig.watch.warm.is_set)
    rig.api.exist[KINDS.FUNCTION] = {"2"}
    await until(lambda: rig.names == {"g"})
    changes = rig.changes
    await until(lambda: rig.changes > changes or rig.changes == 2)


async def test_a_watch_that_shows_nothing_is_begun_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.begin()
    await until(rig.watch.warm.is_set)
    monkeypatch.setattr(watch, "LAG", 0.0)
    rig.api.exist[KINDS.FUNCTION] = {"1"}
    await until(lambda: rig.everywhere.anew)
    assert not rig.ours.anew


async def test_a_watch_that_shows_no_change_is_begun_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing came and nothing went: a node, say, that was not ready when the watch died."""
    rig.begin()
    rig.api.exist[KINDS.FUNCTION] = {"1", "2"}
    rig.tell(None, "f", "1")
    rig.tell(None, "g", "2")
    await until(rig.watch.warm.is_set)
    monkeypatch.setattr(watch, "LAG", 0.0)
    rig.api.version = "2"
    rig.tell("MODIFIED", "g", "2", 2)
    await until(lambda: rig.everywhere.anew)
    assert not rig.ours.anew


async def test_a_watch_that_tells_of_changes_as_they_come_is_left_alone(rig: Rig) -> None:
    rig.begin()
    rig.api.exist[KINDS.FUNCTION] = {"1"}
    rig.tell(None, "f", "1")
    await until(rig.watch.warm.is_set)
    for version in range(2, 5):  # it is always one behind
        rig.api.version = str(version + 1)
        rig.watch._doubt.set()
        asked = rig.api.asked
        await until(lambda asked=asked: rig.api.asked >= asked + 5)  # type: ignore[misc]
        rig.tell("MODIFIED", "f", "1", version)
        assert not rig.watch._kept[KINDS.FUNCTION].behind
    assert not rig.everywhere.anew


async def test_what_came_between_two_lists_is_kept(rig: Rig) -> None:
    rig.begin()
    await until(rig.watch.warm.is_set)
    rig.tell("ADDED", "f", "1")
    rig.api.exist[KINDS.FUNCTION] = {"1"}
    asked = rig.api.asked
    await until(lambda: rig.api.asked > asked + 10)
    assert rig.names == {"f"}
    assert rig.watch.touched() == {("ns", "f")}
