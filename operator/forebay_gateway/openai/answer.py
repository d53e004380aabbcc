"""Tokens become OpenAI objects: chunks of a stream, or one answer at the end.

A choice of the answer is numbered prompt × n + choice, so every prompt of a list has choices of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forebay_gateway.ask import Accepted, Ask, Kind, Token
from forebay_gateway.openai.logprobs import ChatLogprobs, CompletionLogprobs, Logprobs

Json = dict[str, Any]

TOKEN_BYTES = 100
"""A token's number and text, beside its characters."""


@dataclass(slots=True)
class Choice:
    logprobs: Logprobs | None
    text: list[str] = field(default_factory=list)
    finish: str | None = None
    tokens: int = 0


@dataclass(slots=True)
class Usage:
    """``cached_tokens`` is None until a token came: later ones may have found what this request itself computed."""

    prompt_tokens: int = 0
    cached_tokens: int | None = None

    def to_json(self, completion_tokens: int) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.cached_tokens or 0, self.prompt_tokens)},
        }


class Answer:
    """What is known of one answer so far. ``created`` in unix seconds; ``model`` as the caller named it."""

    def __init__(self, ask: Ask, request_id: str, model: str, created: int) -> None:
        self.chat = ask.kind is Kind.CHAT
        self.head = {"id": f"{'chatcmpl' if self.chat else 'cmpl'}-{request_id}", "created": created, "model": model}
        self.include_usage = ask.include_usage
        self._n = ask.sampling.n
        self._choices = [self._new_choice(ask) for _ in range(len(ask.prompts) * ask.sampling.n)]
        self._prompts = [Usage() for _ in ask.prompts]

    def _new_choice(self, ask: Ask) -> Choice:
        if not ask.sampling.logprobs:
            return Choice(None)
        return Choice(ChatLogprobs() if self.chat else CompletionLogprobs())

    def accepted(self, prompt: int, accepted: Accepted) -> None:
        """A head took a prompt; a second head's count (of prompt and tokens so far) is no news."""
        usage = self._prompts[prompt]
        usage.prompt_tokens = usage.prompt_tokens or accepted.prompt_tokens

    def chunks(self, prompt: int, token: Token) -> list[Json]:
        """What a stream shows of this token: nothing while its text is held back."""
        index, choice = self._take(prompt, token)
        logprobs = choice.logprobs.of(token) if choice.logprobs else None
        first = self.chat and choice.tokens == 1
        found = [self._chunk(index, {"role": "assistant", "content": ""}, None, None)] if first else []
        if token.text or choice.finish or logprobs is not None:
            content = {"content": token.text} if self.chat else token.text
            found.append(self._chunk(index, content, choice.finish, logprobs))
        return found

    def closing_chunk(self, prompt: int, token: Token) -> Json:
        """What a stream shows of the end of a choice that came after its last token: text that was held back."""
        index = self.close(prompt, token)
        content = {"content": token.text} if self.chat else token.text
        return self._chunk(index, content, token.finish, None)

    def close(self, prompt: int, token: Token) -> int:
        """The choice of ``token``, which came before, ends with it; the choice's number."""
        index = prompt * self._n + token.choice
        self._choices[index].text.append(token.text)
        self._choices[index].finish = token.finish
        return index

    def usage_chunk(self) -> Json:
        return {**self._chunk_head(), "choices": [], "usage": self._usage()}

    def collect(self, prompt: int, token: Token) -> int:
        """Keep it for the whole answer; the bytes that it takes, roughly."""
        _, choice = self._take(prompt, token)
        choice.text.append(token.text)
        return TOKEN_BYTES + len(token.text) + (choice.logprobs.collect(token) if choice.logprobs else 0)

    def whole(self) -> Json:
        """The answer of a request that does not stream."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self.head, "object": kind, "choices": choices, "usage": self._usage(), "system_fingerprint": None}

    def _take(self, prompt: int, token: Token) -> tuple[int, Choice]:
        index = prompt * self._n + token.choice
        choice = self._choices[index]
        choice.tokens += 1
        choice.finish = token.finish or None
        usage = self._prompts[prompt]
        if usage.cached_tokens is None:
            usage.cached_tokens = token.cached_tokens
        return index, choice

    def _chunk_head(self) -> Json:
        return {**self.head, "object": "chat.completion.chunk" if self.chat else "text_completion"}

    def _chunk(self, index: int, content: Json | str, finish: str | None, logprobs: Json | None) -> Json:
        key = "delta" if self.chat else "text"
        choice = {"index": index, key: content, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._chunk_head(), "choices": [choice]}
        return chunk | {"usage": None} if self.include_usage else chunk

    def _whole_choice(self, index: int, choice: Choice) -> Json:
        text = "".join(choice.text)
        shown: Json = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        )
        logprobs = choice.logprobs.collected() if choice.logprobs else None
        return {"index": index, **shown, "logprobs": logprobs, "finish_reason": choice.finish}

    def _usage(self) -> Json:
        total = Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in self._prompts),
            cached_tokens=sum(usage.cached_tokens or 0 for usage in self._prompts),
        )
        return total.to_json(sum(choice.tokens for choice in self._choices))
