"""What values of a request are right: ranges, stop strings, biases, messages, and what is not supported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from forebay_gateway.ask import Kind
from forebay_gateway.errors import InvalidRequest

MAX_TOKENS = 2**31 - 1
MAX_TOP_LOGPROBS = 20
MAX_N = 64
"""What a head takes of one prompt."""
MAX_STOPS = 4
MAX_STOP_LENGTH = 1024
MAX_BIASES = 1024
MAX_TEMPLATE_BYTES = 4096

RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, MAX_TOKENS),
    ("min_tokens", 0, MAX_TOKENS),
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("top_k", -1, MAX_TOKENS),
    ("min_p", 0, 1),
    ("n", 1, MAX_N),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("repetition_penalty", 0, 1e6),
    ("seed", -(2**63), 2**64 - 1),
)

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What callers may write, and what chat templates know."""


class Unsupported(NamedTuple):
    """``harmless``: whether a value asks for nothing; ``but`` says what is possible instead."""

    harmless: Callable[[Any], bool]
    but: str = ""


def _empty(value: Any) -> bool:
    return not value


def _absent_or_true(value: Any) -> bool:
    return value is None or value is True


def _null(value: Any) -> bool:
    return value is None


_ABSENT = Unsupported(_empty)
_ALWAYS = Unsupported(_absent_or_true, ": only true is")

# Parameters that would change the answer: leaving them out silently would be wrong.
_UNSUPPORTED: Mapping[str, Unsupported] = {
    "response_format": Unsupported(lambda v: not v or v == {"type": "text"}, ': only {"type": "text"} is'),
    "tools": _ABSENT,
    "tool_choice": Unsupported(lambda v: v in (None, "none", "auto")),
    "functions": _ABSENT,
    "function_call": Unsupported(lambda v: v in (None, "none", "auto")),
    "audio": _ABSENT,
    "modalities": Unsupported(lambda v: not v or v == ["text"], ': only ["text"] is'),
    "prediction": _ABSENT,
    "web_search_options": Unsupported(_null),
    "echo": _ABSENT,
    "suffix": _ABSENT,
    "best_of": Unsupported(lambda v: v in (None, 1), ": ask for n choices and choose among them"),
    "use_beam_search": _ABSENT,
    "prompt_logprobs": Unsupported(_null),
    "stop_token_ids": _ABSENT,
    "bad_words": _ABSENT,
    "allowed_token_ids": Unsupported(_null),
    "truncate_prompt_tokens": Unsupported(_null),
    "include_stop_str_in_output": _ABSENT,
    "skip_special_tokens": _ALWAYS,
    "chat_template": _ABSENT,
    "add_generation_prompt": _ALWAYS,
    "continue_final_message": _ABSENT,
    "documents": _ABSENT,
    "structured_outputs": _ABSENT,
    "guided_json": _ABSENT,
    "guided_regex": _ABSENT,
    "guided_choice": _ABSENT,
    "guided_grammar": _ABSENT,
}
UNSUPPORTED: Mapping[Kind, Mapping[str, Unsupported]] = {
    Kind.CHAT: {**_UNSUPPORTED, "add_special_tokens": Unsupported(_empty, ": only false is, the template adds them")},
    Kind.COMPLETION: {**_UNSUPPORTED, "add_special_tokens": _ALWAYS},
}


def within(name: str, value: float | None, low: float, high: float) -> None:
    """Raises InvalidRequest."""
    if value is not None and not low <= value <= high:
        bounds = f"at least {low:g}" if high >= MAX_TOKENS else f"from {low:g} to {high:g}"
        raise InvalidRequest(f"{name}: {value} is out of range: expected {bounds}", param=name)


def stop(found: str | Sequence[str] | None) -> tuple[str, ...]:
    """Raises InvalidRequest."""
    texts = (found,) if isinstance(found, str) else tuple(found or ())
    if len(texts) > MAX_STOPS:
        raise InvalidRequest(f"stop: {len(texts)} strings, expected at most {MAX_STOPS}", param="stop")
    for text in texts:
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise InvalidRequest(
                f"stop: a string of {len(text)} characters, expected 1 to {MAX_STOP_LENGTH}", param="stop"
            )
    return texts


def logit_bias(found: Mapping[str, float] | None) -> dict[int, float]:
    """Raises InvalidRequest."""
    if found and len(found) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias: {len(found)} tokens, expected at most {MAX_BIASES}", param="logit_bias")
    biases: dict[int, float] = {}
    for key, value in (found or {}).items():
        if not (key.isascii() and key.isdigit() and int(key) < 2**32):
            raise InvalidRequest(f"logit_bias: {key[:20]!r} is no token id", param="logit_bias")
        if not -100 <= value <= 100:
            raise InvalidRequest(f"logit_bias: {value} is out of range: expected from -100 to 100", param="logit_bias")
        biases[int(key)] = value
    return biases


def template(found: Mapping[str, Any] | None) -> str:
    """What the chat template is given besides messages, as JSON. Raises InvalidRequest."""
    text = msgspec.json.encode(found).decode() if found else ""
    if len(text) > MAX_TEMPLATE_BYTES:
        raise InvalidRequest(
            f"chat_template_kwargs: {len(text)} bytes, expected at most {MAX_TEMPLATE_BYTES}",
            param="chat_template_kwargs",
        )
    return text


def messages(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Messages as chat templates know them: a role and one text. Raises InvalidRequest."""
    if not found:
        raise InvalidRequest("messages: expected at least one message, got an empty list", param="messages")
    return [_message(f"messages[{index}]", message) for index, message in enumerate(found)]


def _message(param: str, message: Mapping[str, Any]) -> dict[str, str]:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest(f"{param}.role: {role!r} is not one of {', '.join(ROLES)}", param=f"{param}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise InvalidRequest(f"{param}.{name} is not supported", param=f"{param}.{name}")
    text = _content(f"{param}.content", message.get("content"))
    author = message.get("name")
    return {"role": ROLES[role], "content": text} | ({"name": author} if isinstance(author, str) else {})


def _content(param: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{param}: expected a text or a list of text parts", param=param)
    texts: list[str] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
            raise InvalidRequest(f"{param}[{index}]: expected an object with a type", param=f"{param}[{index}]")
        if kind != "text":
            raise InvalidRequest(
                f"{param}[{index}].type: {kind!r} is not supported: only text is", param=f"{param}[{index}].type"
            )
        if not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{param}[{index}].text: expected a text", param=f"{param}[{index}].text")
        texts.append(part["text"])
    return "\n".join(texts)
