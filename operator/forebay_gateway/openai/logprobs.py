"""Log probabilities of one choice, in the two shapes of the OpenAI API."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from forebay_gateway.ask import Token, TopLogprob

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

RAW_BYTES = 100
"""What keeping bytes takes beside them."""

Json = dict[str, Any]


class Logprobs(Protocol):
    def of(self, token: Token) -> Json:
        """One token, for a chunk."""

    def collect(self, token: Token) -> int:
        """Keep it as JSON, which is smaller than its objects; the bytes that it takes, roughly."""

    def collected(self) -> Json:
        """All tokens, for the whole answer."""


class ChatLogprobs:
    """``{"content": [{token, logprob, bytes, top_logprobs}]}``."""

    def __init__(self) -> None:
        self._content: list[msgspec.Raw] = []

    def of(self, token: Token) -> Json:
        return {"content": [_chat_entry(token)], "refusal": None}

    def collect(self, token: Token) -> int:
        entry = msgspec.json.encode(_chat_entry(token))
        self._content.append(msgspec.Raw(entry))
        return len(entry) + RAW_BYTES

    def collected(self) -> Json:
        return {"content": self._content, "refusal": None}


class CompletionLogprobs:
    """Parallel lists, with each token's offset in the answer's text."""

    def __init__(self) -> None:
        self._offset = 0
        self._all: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def of(self, token: Token) -> Json:
        offset, self._offset = self._offset, self._offset + len(token.piece)
        # The chosen token is always among them, so a caller may get one more than asked for.
        top = {token.piece: finite(token.logprob)} | {entry.text: finite(entry.logprob) for entry in token.top}
        return {
            "tokens": [token.piece],
            "token_logprobs": [finite(token.logprob)],
            "top_logprobs": [top],
            "text_offset": [offset],
        }

    def collect(self, token: Token) -> int:
        entry = {name: msgspec.json.encode(value) for name, (value,) in self.of(token).items()}
        for name, value in entry.items():
            self._all[name].append(msgspec.Raw(value))
        return sum(map(len, entry.values())) + RAW_BYTES * len(entry)

    def collected(self) -> Json:
        return self._all


def finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def _chat_entry(token: Token) -> Json:
    chosen = TopLogprob(token.piece, token.logprob, token.raw)
    return {**_shown(chosen), "top_logprobs": [_shown(entry) for entry in token.top]}


def _shown(entry: TopLogprob) -> Json:
    return {"token": entry.text, "logprob": finite(entry.logprob), "bytes": list(entry.raw)}
