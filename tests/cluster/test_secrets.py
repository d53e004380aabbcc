"""Secrets that functions name: read once, read anew, refused with what would help, shown to nobody."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay_operator.cluster import secrets
from forebay_operator.cluster.api import Api, ApiError, NotFound, Unreachable
from forebay_operator.cluster.secrets import FRESH, KEPT, Secrets
from forebay_operator.credentials import Refused, SecretKey, Token

KEY = SecretKey("team", "hub", "HF_TOKEN")


class OneSecret(Api):
    """What the next reads give: data of the Secret, or an error."""

    def __init__(self, *answers: dict[str, Any] | ApiError) -> None:
        self.answers = list(answers)
        self.reads = 0

    async def get(self, kind: Any, namespace: str, name: str) -> dict[str, Any]:
        assert (kind.name, namespace, name) == ("Secret", "team", "hub")
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer


def stored(value: str, key: str = "HF_TOKEN") -> dict[str, Any]:
    return {"data": {key: base64.b64encode(value.encode()).decode()}}


class Asking:
    def __init__(self, api: Api) -> None:
        self.now = 1000.0
        self.changes = 0
        self.heard = asyncio.Event()
        self.secrets = Secrets(api, self.changed, lambda: self.now)

    def changed(self) -> None:
        self.changes += 1
        self.heard.set()

    async def news(self) -> None:
        async with asyncio.timeout(5):
            await self.heard.wait()
        self.heard.clear()


@asynccontextmanager
async def asking(api: Api) -> AsyncIterator[Asking]:
    each = Asking(api)
    task = asyncio.create_task(each.secrets.run())
    try:
        yield each
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_is_read_when_first_asked_for_and_then_known() -> None:
    api = OneSecret(stored("hf_abc\n"))
    async with asking(api) as each:
        assert each.secrets.find(KEY) is None
        await each.news()
        assert each.secrets.find(KEY) == Token("hf_abc")
        assert each.secrets.find(KEY) == Token("hf_abc")
        assert (api.reads, each.changes) == (1, 1)
        assert "hf_abc" not in repr(each.secrets.find(KEY))


async def test_another_value_is_found_when_it_is_asked_for_later() -> None:
    api = OneSecret(stored("old"), stored("new"))
    async with asking(api) as each:
        each.secrets.find(KEY)
        await each.news()
        each.now += FRESH
        assert each.secrets.find(KEY) == Token("old")
        await each.news()
        assert each.secrets.find(KEY) == Token("new")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (NotFound(404, "NotFound", "x"), "there is no Secret team/hub"),
        (ApiError(403, "Forbidden", "x"), "may not read Secret team/hub: list it in the chart's credentials.secrets"),
        (stored("x", "OTHER"), "Secret team/hub has no key HF_TOKEN"),
        ({}, "Secret team/hub has no key HF_TOKEN"),
        ({"data": {"HF_TOKEN": "%%"}}, "key HF_TOKEN of Secret team/hub is no text"),
    ],
)
async def test_why_it_cannot_be_had(answer: dict[str, Any] | ApiError, said: str) -> None:
    async with asking(OneSecret(answer)) as each:
        each.secrets.find(KEY)
        await each.news()
        refused = each.secrets.find(KEY)
        assert isinstance(refused, Refused)
        assert refused.message.startswith("spec.model.credentials: ")
        assert said in refused.message


@pytest.mark.parametrize(
    "error",
    [
        Unreachable(0, "", "nobody"),
        ApiError(500, "InternalError", "etcdserver: request timed out"),
        ApiError(401, "Unauthorized", "the token has expired"),
    ],
    ids=lambda error: str(error.status),
)
async def test_what_says_nothing_of_it_is_asked_again_and_what_is_known_stays(
    monkeypatch: pytest.MonkeyPatch, error: ApiError
) -> None:
    monkeypatch.setattr(secrets, "AGAIN", 0.01)
    api = OneSecret(stored("old"), error, error, stored("new"))
    async with asking(api) as each:
        each.secrets.find(KEY)
        await each.news()
        each.now += FRESH
        assert each.secrets.find(KEY) == Token("old")
        await each.news()
        assert (api.reads, each.secrets.find(KEY)) == (4, Token("new"))


async def test_what_was_refused_long_ago_is_read_before_anybody_hears_of_it_again() -> None:
    missing = NotFound(404, "NotFound", "x")
    async with asking(OneSecret(missing, missing, stored("a"))) as each:
        each.secrets.find(KEY)
        await each.news()
        each.now += FRESH - 1
        refused = each.secrets.find(KEY)
        assert isinstance(refused, Refused)
        each.now += 1
        assert each.secrets.find(KEY, doubted=True) == refused  # who has failed by it compares
        assert each.secrets.find(KEY) is None
        await each.news()  # though it is the same as before
        assert each.secrets.find(KEY) == refused
        each.now += FRESH
        assert each.secrets.find(KEY) is None
        await each.news()
        assert each.secrets.find(KEY) == Token("a")


async def test_what_nobody_asks_for_is_forgotten() -> None:
    api = OneSecret(stored("a"))
    async with asking(api) as each:
        each.secrets.find(KEY)
        await each.news()
        each.now += KEPT
        other = SecretKey("team", "hub", "OTHER")
        each.secrets.find(other)
        await each.news()
        assert each.secrets.find(KEY) is None


async def test_one_that_did_not_help_is_read_again_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "DOUBTED", 0.01)
    api = OneSecret(stored("wrong"), stored("wrong"), stored("right"))
    async with asking(api) as each:
        each.secrets.find(KEY)
        await each.news()
        each.secrets.find(KEY, doubted=True)
        each.now += 1
        await wait_for(lambda: api.reads == 2)
        assert each.changes == 1
        each.now += 1
        await each.news()
        assert each.secrets.find(KEY) == Token("right")


async def test_who_no_longer_doubts_costs_no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "DOUBTED", 0.01)
    api = OneSecret(stored("wrong"))
    async with asking(api) as each:
        each.secrets.find(KEY)
        await each.news()
        each.secrets.find(KEY, doubted=True)
        each.now += FRESH - 0.005
        await wait_for(lambda: api.reads == 2)
        each.now += 1
        await asyncio.sleep(0.1)  # ten times as long as it is doubted
        assert api.reads == 2


async def wait_for(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.005)
