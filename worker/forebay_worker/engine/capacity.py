"""What a head can take: the one place where a request is refused for what it asks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from forebay_worker.engine.request import Ended, Refused, Request
from forebay_worker.engine.sample import Params

WAITING_LIMIT = 512  # sequences at one head
CHOICES_LIMIT = 64  # of one request


@dataclass(frozen=True, slots=True)
class Capacity:
    """Prompt and answer together have at most ``max_model_len`` tokens; ``kv_tokens`` fit into its blocks."""

    max_model_len: int
    kv_tokens: int
    vocabulary: int

    @property
    def room(self) -> int:
        return min(self.max_model_len, self.kv_tokens)

    def answer_limit(self, request: Request) -> int:
        """Tokens that an answer may have. Where the blocks are fewer than the context, they end it."""
        fits = self.room - len(request.prompt)
        return min(request.max_tokens or fits, fits)

    def refusal(self, request: Request, waiting: int) -> Ended | None:
        """Why ``request`` cannot be taken while ``waiting`` sequences wait; None when it can."""
        if problem := self._invalid(request):
            return Ended(Refused.INVALID_REQUEST, problem)
        begun = any(resumed.tokens for resumed in request.resumed.values())
        # What has begun had more room elsewhere. Here its answer ends sooner, and where not even its prompt fits its
        # reader is to ask others, not to tell its caller.
        if problem := self._too_long(len(request.prompt), 0 if begun else request.max_tokens):
            return Ended(Refused.HEAD_FULL if begun else Refused.CONTEXT_LENGTH_EXCEEDED, problem)
        if waiting + request.n > WAITING_LIMIT:
            return Ended(Refused.HEAD_FULL, f"{waiting} answers wait here; at most {WAITING_LIMIT} may")
        return None

    def _invalid(self, request: Request) -> str:
        if not request.prompt:
            return "prompt: is empty; must have at least one token"
        if not 1 <= request.n <= CHOICES_LIMIT:
            return f"n: is {request.n}; must be 1 to {CHOICES_LIMIT}"
        if "" in request.stop:
            return "stop: holds an empty string; each must have at least one character"
        return _invalid_params(request.params) or self._invalid_tokens(request)

    def _invalid_tokens(self, request: Request) -> str:
        given: dict[str, Iterable[int]] = {
            "prompt": request.prompt,
            "resumed": [token for resumed in request.resumed.values() for token in resumed.tokens],
            "logit_bias": [token for token, _ in request.params.logit_bias],
        }
        for name, tokens in given.items():
            for token in tokens:
                if not 0 <= token < self.vocabulary:
                    return f"{name}: token {token} is not in the vocabulary of {self.vocabulary}"
        return ""

    def _too_long(self, prompt: int, asked: int) -> str:
        if prompt + 1 > self.room:
            return f"prompt: has {prompt} tokens; at most {self.room - 1} fit here with an answer"
        if prompt + asked > self.max_model_len:
            return (
                f"max_tokens: is {asked} after a prompt of {prompt} tokens; "
                f"together at most {self.max_model_len} fit into the context"
            )
        return ""


def _invalid_params(params: Params) -> str:
    """Numbers that would make logits infinite: they must not look like a sick device."""
    floats = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
    } | {f"logit_bias of {token}": bias for token, bias in params.logit_bias}
    for name, value in floats.items():
        if not math.isfinite(value):
            return f"{name}: is {value}; must be a finite number"
    if params.repetition_penalty <= 0:
        return f"repetition_penalty: is {params.repetition_penalty}; must be greater than 0"
    if params.temperature < 0:
        return f"temperature: is {params.temperature}; must be 0 or greater"
    return ""
