"""How a watch is begun anew; kopf's part is played by hand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from cluster.test_shelf import body
from control.actors import until
from forebay_operator.cluster import listener
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.listener import Listener, Watched


class Deaf:
    """A kopf that hears of no stop, until the test ends."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, asyncio.AbstractEventLoop]] = []
        self.over = threading.Event()

    async def operate(self, number: int, _stop: asyncio.Event, caller: asyncio.AbstractEventLoop) -> None:
        self.begun.append((number, caller))
        await asyncio.to_thread(self.over.wait)


async def test_one_that_does_not_stop_is_left_behind_and_heard_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STOPPING", 0.05)
    monkeypatch.setattr(listener, "AGAIN", 0.0)
    kopf, heard = Deaf(), list[str]()
    watching = Listener([Watched(KINDS.FUNCTION)], lambda _kind, _event, body: heard.append(name(body)), None)
    monkeypatch.setattr(watching, "_operate", kopf.operate)
    task = asyncio.ensure_future(watching.run())
    try:
        await until(lambda: len(kopf.begun) == 1)
        watching.begin_anew()
        await until(lambda: len(kopf.begun) == 2)
        for number, caller in kopf.begun:
            tell = watching._passing(number, KINDS.FUNCTION, caller)
            await tell({"type": "ADDED", "object": body(f"f{number}", "1")})  # type: ignore[misc]
        await until(lambda: heard == ["f2"])
    finally:
        kopf.over.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def name(body: Any) -> str:
    return str(body["metadata"]["name"])
