"""Long answers in the background while something breaks, compared to what transformers says when they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import openai
from cluster.installed import Installed
from cluster.kube import PATIENCE

from local.system import pieces

if TYPE_CHECKING:
    from local.reference import Reference

PROMPT, TOKENS = "The history of the water wheel began", 96


@dataclass
class Answer:
    """One streamed answer as it comes."""

    got: list[str] = field(default_factory=list)
    ended: bool = False
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, piece: str) -> None:
        self.got.append(piece)
        self._more.set()

    async def reaches(self, count: int) -> None:
        """Return once ``count`` pieces are there; fails after `PATIENCE`."""
        async with asyncio.timeout(PATIENCE):
            while len(self.got) < count and not self.ended:
                self._more.clear()
                await self._more.wait()
        assert len(self.got) >= count, "the answer ended before"

    def end(self) -> None:
        self.ended = True
        self._more.set()

    @property
    def text(self) -> str:
        return "".join(self.got)


@contextlib.asynccontextmanager
async def answering(
    forebay: Installed, name: str, real: Reference, *, count: int = 1, urls: tuple[str, ...] = ()
) -> AsyncIterator[list[Answer]]:
    """``count`` answers that have not ended when the block begins; all are right when it has ended. ``urls``: whom to
    ask, in turn; else the address in the function's status."""
    real.answer(PROMPT, TOKENS, chat=False)
    whom = urls or (forebay.url(name),)
    answers = [Answer() for _ in range(count)]
    tasks = [
        asyncio.create_task(_ask(f"{whom[number % len(whom)]}/v1", name, answer))
        for number, answer in enumerate(answers)
    ]
    try:
        yield answers
        async with asyncio.timeout(2 * PATIENCE):
            await asyncio.gather(*tasks)
        for answer in answers:
            real.check(answer.text, PROMPT, TOKENS, chat=False)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(url: str, name: str, answer: Answer) -> None:
    client = openai.AsyncOpenAI(base_url=url, api_key="none", timeout=2 * PATIENCE, max_retries=0)
    try:
        async with client:
            async for piece in pieces(client, name, PROMPT, max_tokens=TOKENS):
                answer.add(piece)
    finally:
        answer.end()
