"""What a caller asks and what comes back, in our own words: neither HTTP nor gRPC shapes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Messages:
    """OpenAI chat messages as JSON; the head renders the template, which is given ``template`` too, an object as JSON
    (empty = nothing)."""

    json: str
    template: str = ""


@dataclass(frozen=True, slots=True)
class TokenIds:
    ids: tuple[int, ...]


Prompt = Text | Messages | TokenIds

ID_BYTES = 36
"""What a token id takes in a tuple."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """``max_tokens`` 0 = as many as fit; ``temperature`` 0 = greedy; ``top_p`` and ``repetition_penalty`` 1 = off,
    ``top_k`` and ``min_p`` 0 = off, each None = what the model itself wants; ``seed`` None = drawn by the gateway,
    once."""

    max_tokens: int = 0
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request. Each prompt gets ``sampling.n`` choices of its own; ``ignored`` names unknown parameters."""

    kind: Kind
    model: str | None
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """What its prompts take in memory, roughly."""
        return sum(map(_nbytes, self.prompts))


def _nbytes(prompt: Prompt) -> int:
    match prompt:
        case Text(text) | Messages(text):
            return sys.getsizeof(text)
        case _:
            return ID_BYTES * len(prompt.ids)


@dataclass(frozen=True, slots=True)
class TopLogprob:
    text: str
    logprob: float
    raw: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """``index``: 0-based position in the answer of its choice. ``text``: what may be shown now; ``piece`` and ``raw``:
    this token alone. ``finish``: "" | "stop" | "length"."""

    choice: int
    index: int
    token: int
    text: str
    finish: str = ""
    logprob: float = 0.0
    top: tuple[TopLogprob, ...] = ()
    piece: str = ""
    raw: bytes = b""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """A head took the request."""

    prompt_tokens: int
