"""A request's body becomes an `Ask`, or an error that names the field, its value and what would be right."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any, TypeVar

import msgspec

from forebay_gateway.ask import Ask, Kind, Messages, Prompt, Sampling, Text, TokenIds
from forebay_gateway.errors import InvalidRequest
from forebay_gateway.openai import check

DEFAULT_COMPLETION_TOKENS = 16
"""What /v1/completions gives a caller who does not say; a chat goes on as long as fits."""

MAX_CHOICES = 128
MAX_TOKEN_ID = 2**32 - 1
MAX_IGNORED = 64
"""Names of unknown parameters that are kept to be shown."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Common(msgspec.Struct, kw_only=True):
    """Fields of both endpoints, the last seven in vLLM's words. None is the same as absent."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None


class ChatBody(Common, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, str | int | float | bool | None] | None = None


class CompletionBody(Common, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None


Body = TypeVar("Body", ChatBody, CompletionBody)

_FIELDS = {
    Kind.CHAT: frozenset(ChatBody.__struct_fields__),
    Kind.COMPLETION: frozenset(CompletionBody.__struct_fields__),
}
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_chat = msgspec.json.Decoder(ChatBody).decode
_decode_completion = msgspec.json.Decoder(CompletionBody).decode


def parse(kind: Kind, body: bytes) -> Ask:
    """Raises InvalidRequest."""
    return parse_chat(body) if kind is Kind.CHAT else parse_completion(body)


def parse_chat(body: bytes) -> Ask:
    """Of /v1/chat/completions. Raises InvalidRequest."""
    ignored = _examine(body, Kind.CHAT)
    chat = _decode(_decode_chat, body)
    check.within("top_logprobs", chat.top_logprobs, 0, check.MAX_TOP_LOGPROBS)
    if chat.top_logprobs and not chat.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    check.within("max_completion_tokens", chat.max_completion_tokens, 1, check.MAX_TOKENS)
    sampling = _sampling(chat, limit or 0, logprobs=bool(chat.logprobs), top_logprobs=chat.top_logprobs or 0)
    messages = msgspec.json.encode(check.messages(chat.messages)).decode()
    prompt = Messages(messages, check.template(chat.chat_template_kwargs))
    return _ask(Kind.CHAT, chat, (prompt,), sampling, ignored)


def parse_completion(body: bytes) -> Ask:
    """Of /v1/completions. Raises InvalidRequest."""
    ignored = _examine(body, Kind.COMPLETION)
    completion = _decode(_decode_completion, body)
    check.within("logprobs", completion.logprobs, 0, check.MAX_TOP_LOGPROBS)
    limit = DEFAULT_COMPLETION_TOKENS if completion.max_tokens is None else completion.max_tokens
    logprobs = completion.logprobs is not None
    sampling = _sampling(completion, limit, logprobs=logprobs, top_logprobs=completion.logprobs or 0)
    prompts = _prompts(completion.prompt)
    if len(prompts) * sampling.n > MAX_CHOICES:
        raise InvalidRequest(
            f"prompt: {len(prompts)} prompts with n={sampling.n} make more than {MAX_CHOICES} choices", param="prompt"
        )
    return _ask(Kind.COMPLETION, completion, prompts, sampling, ignored)


def _ask(
    kind: Kind,
    body: ChatBody | CompletionBody,
    prompts: tuple[Prompt, ...],
    sampling: Sampling,
    ignored: tuple[str, ...],
) -> Ask:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    return Ask(
        kind=kind,
        model=body.model,
        prompts=prompts,
        sampling=sampling,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        ignored=ignored,
    )


def _examine(body: bytes, kind: Kind) -> tuple[str, ...]:
    """Refuse what would change the answer and is not supported; the names of what is left over."""
    found, rules = _decode(_decode_keys, body), check.UNSUPPORTED[kind]
    extra = {name: raw for name, raw in found.items() if name not in _FIELDS[kind]}
    for name, raw in extra.items():
        if (rule := rules.get(name)) and not rule.harmless(_decode(msgspec.json.decode, raw)):
            raise InvalidRequest(f"{name} is not supported{rule.but}", param=name)
    return tuple(islice((name for name in extra if name not in rules), MAX_IGNORED))


def _decode(decode: Any, body: bytes | msgspec.Raw) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        # A key of an object is shown as [...]; a missing field is named in the message.
        param = path.removesuffix("`").removeprefix("$").removeprefix(".") or _missing(message)
        raise InvalidRequest(f"{param}: {message}" if path else message, param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _missing(message: str) -> str:
    found = re.search(r"required field `(\w+)`", message)
    return found[1] if found else ""


def _prompts(prompt: str | list[str | int | list[int]]) -> tuple[Prompt, ...]:
    """A text, token ids, or a list of either; every prompt of a list gets choices of its own."""
    if isinstance(prompt, str):
        return (Text(prompt),)
    if not prompt:
        raise InvalidRequest("prompt: expected a text, token ids, or a list of them, got an empty list", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return (_token_ids("prompt", prompt),)
    if any(isinstance(item, int) for item in prompt):
        raise InvalidRequest("prompt: texts and token ids are mixed", param="prompt")
    return tuple(
        Text(item) if isinstance(item, str) else _token_ids(f"prompt[{index}]", item)
        for index, item in enumerate(prompt)
    )


def _token_ids(param: str, ids: Any) -> TokenIds:
    if not ids:
        raise InvalidRequest(f"{param}: expected token ids, got an empty list", param="prompt")
    for found in ids:
        if not 0 <= found <= MAX_TOKEN_ID:
            raise InvalidRequest(f"{param}: {found} is no token id", param="prompt")
    return TokenIds(tuple(ids))


def _sampling(body: ChatBody | CompletionBody, max_tokens: int, *, logprobs: bool, top_logprobs: int) -> Sampling:
    for name, low, high in check.RANGES:
        check.within(name, getattr(body, name), low, high)
    if body.top_p == 0:
        raise InvalidRequest("top_p: 0 is out of range: expected above 0, at most 1", param="top_p")
    if body.repetition_penalty is not None and body.repetition_penalty <= 0:
        raise InvalidRequest(
            f"repetition_penalty: {body.repetition_penalty} is not above 0", param="repetition_penalty"
        )
    if max_tokens and (body.min_tokens or 0) > max_tokens:
        raise InvalidRequest(
            f"min_tokens: {body.min_tokens} is above max_tokens, which is {max_tokens}", param="min_tokens"
        )
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty,
        stop=check.stop(body.stop),
        ignore_eos=bool(body.ignore_eos),
        seed=None if body.seed is None else body.seed % 2**64,
        n=1 if body.n is None else body.n,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        logit_bias=check.logit_bias(body.logit_bias),
    )
