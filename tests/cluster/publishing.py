"""A publisher whose term began long ago, the API that it writes to, and what passes tell it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cluster.stored import Stored
from forebay_api.conditions import Condition, ConditionType, State, Status
from forebay_api.function import Function, FunctionKey
from forebay_api.model import Epoch
from forebay_operator.cluster.publish import Publisher
from forebay_operator.control import Outcome
from forebay_operator.decide.seen import FunctionSeen, Snapshot
from forebay_operator.decisions import Decision
from forebay_operator.status import FunctionStatus, Urls
from forebay_operator.timeline import ColdStarts

KEY = FunctionKey("ns", "f")
URLS = Urls("https://gateway.system.svc", "example.com")
NOW = 1_700_000_000.0
OBJECT = {
    "apiVersion": "forebay.dev/v1alpha1",
    "kind": "LLMFunction",
    "metadata": {"namespace": "ns", "name": "f", "uid": "u1", "generation": 1},
    "spec": {"model": {"uri": "file:///m/a"}},
}


def outcome(
    state: State = State.IDLE,
    ready: Status = Status.TRUE,
    *,
    reason: str = "Ready",
    message: str = "",
    replicas: int = 0,
    uid: str = "u1",
    more: Sequence[Condition] = (),
    scaling: Decision | None = None,
    cold_starts: ColdStarts | None = None,
) -> Outcome:
    function = Function.from_body({**OBJECT, "metadata": {**OBJECT["metadata"], "uid": uid}})
    conditions = (Condition(ConditionType.READY, ready, reason, message, 1, 5.0), *more)
    status = FunctionStatus(state, reason, message, replicas, replicas, URLS.of(KEY), conditions, None)
    return Outcome(
        Snapshot((FunctionSeen(function),), {}, (), (), Epoch(1, 1)),
        {KEY: status},
        scaling={KEY: scaling} if scaling else {},
        cold_starts={KEY: cold_starts} if cold_starts else {},
    )


class Rig:
    """A publisher whose term began long ago."""

    def __init__(self) -> None:
        self.api = Stored()
        self.shown: dict[tuple[str, str], Any] = {}
        self.now = NOW
        self.begin()

    def begin(self) -> None:
        self.publisher = Publisher(self.api, lambda: self.shown, wall=lambda: self.now)
        self.publisher._began -= 60.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        """With a stored function that the watch shows."""
        self.api.put(OBJECT)
        self.watch()
        self.task = asyncio.ensure_future(self.publisher.run())
        try:
            yield self
        finally:
            await self.end()

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def succeed(self) -> None:
        """Another operator leads, and has seen nothing itself."""
        await self.end()
        self.begin()
        self.task = asyncio.ensure_future(self.publisher.run())

    def watch(self) -> None:
        """Let the watch show what is stored."""
        stored = self.api.objects.get(("LLMFunction", "ns", "f"))
        self.shown = {("ns", "f"): stored} if stored else {}
        self.publisher.look({("ns", "f")})

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.objects["LLMFunction", "ns", "f"].get("status") or {}
        return found

    def writes(self) -> int:
        return len(self.api.calls)


async def settled(rig: Rig) -> None:
    """Long enough for a second write, if there were one."""
    await asyncio.sleep(0.4)
    assert all(one.due is None for one in rig.publisher._objects.values())
