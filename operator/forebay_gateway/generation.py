"""One HTTP request, and each prompt of it on its way: what it is, and what of its answer was delivered."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import Protocol

from forebay_gateway.ask import Accepted, Ask, Messages, Prompt, Sampling, Text, Token
from forebay_gateway.roster import Progress, Route
from forebay_gateway.tokens import TokenLog


class Sink(Protocol):
    """Where an answer goes. ``wants_progress``: it can show a cold start before there is an answer."""

    wants_progress: bool

    async def progress(self, progress: Progress) -> None: ...

    async def accepted(self, prompt: int, accepted: Accepted) -> None: ...

    async def token(self, prompt: int, token: Token) -> None: ...

    async def closed(self, prompt: int, token: Token) -> None:
        """The last token of a choice, which came before, was the last of all."""


@dataclass(slots=True)
class Call:
    """One HTTP request. ``cold``: its function had to load, from ``cold_since`` (monotonic seconds) on. ``arrived``:
    unix seconds."""

    ask: Ask
    route: Route
    request_id: str
    sink: Sink
    cold: bool
    arrived: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    cold_since: float = field(default_factory=time.monotonic)
    has_token: bool = False

    @property
    def left(self) -> float:
        """Seconds of its time."""
        return self.began + self.route.timeout_seconds - time.monotonic()


@dataclass(slots=True)
class Generation:
    """One prompt of a call. ``broken`` and ``lost``: failures since the last token that may be the request's own doing.
    ``taken``: the head of this attempt took it. ``backbone``: the model that wrote the tokens so far."""

    call: Call
    number: int
    prompt: Prompt
    sampling: Sampling
    tokens: TokenLog
    attempts: int = 0
    broken: int = 0
    lost: int = 0
    taken: bool = False
    backbone: str = ""
    latest: dict[int, float] = field(default_factory=dict)

    @property
    def prompt_bytes(self) -> int:
        """Roughly."""
        match self.prompt:
            case Text(text):
                return len(text)
            case Messages(json, template):
                return len(json) + len(template)
            case _:
                return 4 * len(self.prompt.ids)


def generations(call: Call) -> list[Generation]:
    sampling = call.ask.sampling
    return [
        Generation(
            call, number, prompt, sampling if sampling.seed is not None else _seeded(sampling), TokenLog(sampling.n)
        )
        for number, prompt in enumerate(call.ask.prompts)
    ]


def _seeded(sampling: Sampling) -> Sampling:
    """With a seed drawn once, so that the tokens are the same wherever the generation goes on."""
    return replace(sampling, seed=random.getrandbits(64))
