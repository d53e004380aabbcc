"""Events: which changes are told, in which words, how often, and what happens when they cannot be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cluster.stored import Stored
from control.actors import until
from forebay_api.conditions import State
from forebay_operator.cluster import events
from forebay_operator.cluster.api import ApiError
from forebay_operator.cluster.events import Events, Subject, change
from forebay_operator.status import FunctionStatus

SUBJECT = Subject("forebay.dev/v1alpha1", "LLMFunction", "ns", "f", "u1")
POOL = {"apiVersion": "forebay.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"namespace": "ns", "name": "p"}}


def status(state: State, reason: str = "", message: str = "") -> FunctionStatus:
    return FunctionStatus(state, reason, message, 1, 2, "", (), None)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("", State.IDLE, None),
        ("Idle", State.IDLE, None),
        ("Queued", State.IDLE, None),
        ("Serving", State.IDLE, "ScaledToZero"),
        ("Draining", State.IDLE, "ScaledToZero"),
        ("Failed", State.IDLE, "Recovered"),
        ("Idle", State.QUEUED, "RequestsWaiting"),
        ("Queued", State.LOADING, "Loading"),
        ("Loading", State.PIPELINED, "ServingPipelined"),
        ("Pipelined", State.SERVING, "Serving"),
        ("Serving", State.DRAINING, None),
        ("Idle", State.SUSPENDED, "Suspended"),
        ("", State.FAILED, "ArtifactNotFound"),
    ],
)
def test_which_changes_are_told(before: str, after: State, told: str | None) -> None:
    found = change(SUBJECT, before, status(after, "ArtifactNotFound"))
    assert (found.reason if found else None) == told
    if found:
        assert found.note
        assert found.warning == (after is State.FAILED)


@pytest.fixture
async def teller(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Events, Stored]]:
    monkeypatch.setattr(events, "APART", 0.01)
    api = Stored()
    told = Events(api, "op-a", dict, clock=lambda: 1_700_000_000.0)
    task = asyncio.ensure_future(told.run())
    yield told, api
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_same_again_is_counted(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    for _ in range(3):
        told.about(POOL, "PodsRefused", "forbidden: quota", True)
    told.about(POOL, "PodsRefused", "forbidden: another quota", True)
    await until(lambda: len(api.calls) == 4)
    assert [verb for verb, _ in api.calls] == ["create", "patch", "patch", "create"]
    first = api.calls[0][1]
    assert first["regarding"] == {**POOL["metadata"], "apiVersion": POOL["apiVersion"], "kind": "WorkerPool"}
    assert (first["type"], first["reason"], first["reportingController"]) == (
        "Warning",
        "PodsRefused",
        "forebay.dev/operator",
    )
    assert first["eventTime"] == "2023-11-14T22:13:20.000000Z"
    assert api.calls[2][1]["series"]["count"] == 3


async def test_one_that_was_forgotten_is_made_anew(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    told.about(POOL, "Scaled", "2 pods made", False)
    await until(lambda: api.calls)
    api.objects.clear()
    told.about(POOL, "Scaled", "2 pods made", False)
    await until(lambda: len(api.calls) == 2 and api.objects)
    assert [verb for verb, _ in api.calls] == ["create", "create"]


async def test_what_cannot_be_told_is_dropped(teller: tuple[Events, Stored]) -> None:
    told, api = teller
    api.faults = [ApiError(403, "Forbidden", "no events here")]
    told.about(POOL, "One", "1", False)
    for number in range(2 * events.WAITING):
        told.about(POOL, "Many", str(number), False)
    await until(lambda: len(api.calls) > events.WAITING - 2)
    assert len(api.calls) <= events.WAITING
