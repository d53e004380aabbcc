"""So many people who ask all the time, in turn by one gateway and by the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import openai

from local.system import PATIENCE

PROMPT, TOKENS = "The river runs past the old mill", 96


class Clients:
    """``urls``: of the gateways; ``model``: whom they ask. ``changed``: when they last became more or fewer, in unix
    seconds."""

    def __init__(self, urls: Sequence[str], model: str) -> None:
        self.changed = 0.0
        self._model = model
        self._clients = [
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) for url in urls
        ]
        self._asking: list[asyncio.Task[None]] = []

    async def ask(self, count: int) -> None:
        """So many from now on; who is too many hangs up. Raises what any of them was refused with."""
        self.check()
        if count == len(self._asking):
            return
        for number in range(len(self._asking), count):
            self._asking.append(asyncio.create_task(self._keep_asking(number)))
        gone, self._asking = self._asking[count:], self._asking[:count]
        for task in gone:
            task.cancel()
        ended = await asyncio.gather(*gone, return_exceptions=True)
        self.changed = time.time()
        for how in ended:
            if isinstance(how, Exception):
                raise how

    def check(self) -> None:
        """Raises what any of them was refused with: who was refused asks no more, and the load is not as wanted."""
        for task in self._asking:
            if task.done():
                task.result()

    async def answers(self, prompt: str, tokens: int) -> list[str]:
        """One of each gateway."""
        return await asyncio.gather(*(self._ask(client, prompt, tokens) for client in self._clients))

    async def close(self) -> None:
        try:
            await self.ask(0)
        finally:
            for client in self._clients:
                await client.close()

    async def _keep_asking(self, number: int) -> None:
        client = self._clients[number % len(self._clients)]
        while True:
            await self._ask(client, f"{PROMPT} {number}", TOKENS)

    async def _ask(self, client: openai.AsyncOpenAI, prompt: str, tokens: int) -> str:
        made = await client.completions.create(model=self._model, prompt=prompt, max_tokens=tokens, temperature=0)
        return made.choices[0].text
