"""Text to token ids and back: the tokenizer, the chat template, and answers detokenised token by token.

An answer is decoded from the bytes of its tokens and not by decoding ever longer lists, so a token costs the same
whether it is the tenth or the ten thousandth. Everything here is a function of its arguments: a request that continues
elsewhere replays its tokens and goes on with the same text.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from forebay_worker.model import ends, generation

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not survive the fork

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's letter for a space
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # without any, transformers makes an empty tokenizer
NOTHING: Mapping[str, Any] = MappingProxyType({})
OURS = frozenset(signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"conversations", "messages"}
"""Names by which transformers, or every template, knows something else."""
MOST_LETTERS = 64 << 20
"""Of a rendered prompt: more than any request brings."""


class TextError(ValueError):
    """The folder has no tokenizer that can be used; the message says why."""


class ChatError(ValueError):
    """These messages cannot be made a prompt of this model; the message is for whoever sent them."""


class TooLong(ValueError):
    """More text than fits into the model's context; the message is for whoever sent it."""


class Text:
    """The tokenizer of one model folder. Encoding is thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Raises TextError."""
        if not any((folder / name).is_file() for name in FILES):
            raise TextError(f"{folder}: no usable tokenizer; must have one of {', '.join(FILES)}")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise TextError(f"{folder}: no usable tokenizer ({error})") from error
        self._backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if self._backend is None:
            raise TextError(f"{folder}: {type(self._tokenizer).__name__} has no tokenizer.json")
        self._backend.no_truncation()  # a prompt is taken as it is, or refused
        self._backend.no_padding()
        steps = _decoder_steps(self._backend.decoder)
        self._to_bytes = _to_bytes(steps)
        self.strips_first_space = any(_strips_first_space(step) for step in steps)
        added = self._backend.get_added_tokens_decoder()
        self.special = frozenset(token for token, content in added.items() if content.special)
        self._bytes: dict[int, bytes] = {}
        configs = {name: _config(folder / name) for name in ends.FILES}
        self.eos = frozenset(_ends(configs, self._tokenizer.eos_token_id))
        self.sampling = generation.defaults(configs[ends.GENERATION])

    def encode_text(self, text: str, limit: int) -> list[int]:
        """Ids of a bare prompt, with whatever the model wants before or after it. Raises TooLong for a text that cannot
        be ``limit`` tokens or fewer: reading megabytes of it takes a minute."""
        self._look(text, limit)
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], limit: int, more: Mapping[str, Any] = NOTHING
    ) -> list[int]:
        """Ids of OpenAI chat ``messages``, up to where the assistant begins to speak. The template is given ``more``
        too. Raises ChatError, and TooLong as `encode_text` does."""
        if self._tokenizer.chat_template is None:
            raise ChatError("this model has no chat template: use /v1/completions")
        if taken := sorted(more.keys() & (OURS | self._tokenizer.special_tokens_map.keys())):
            raise ChatError(f"chat_template_kwargs: {taken[0]!r} is not the caller's to say")
        plain = [{**message, "content": _content(message)} for message in messages]
        try:
            _compile_jinja_template(self._tokenizer.get_chat_template()).environment.concat = _join
            prompt = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, **more)
        except TooLong:
            raise
        except Exception as error:
            raise ChatError(f"messages: the model's chat template refuses them ({error})") from error
        self._look(prompt, limit)
        ids: list[int] = self._backend.encode(prompt, add_special_tokens=False).ids
        return ids

    def _look(self, text: str, limit: int) -> None:
        if len(text) <= limit:  # as nearly always: the vocabulary need not be looked through
            return
        size = len(text.encode())
        if size > limit * self._longest:
            raise TooLong(f"prompt: has {size} bytes; in tokens of at most {self._longest} they exceed {limit}")

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest token, or somewhat more."""
        return max(len(name.encode()) for name in self._backend.get_vocab())

    def token_bytes(self, token: int) -> bytes:
        """What ``token`` stands for, a special one by its name; empty for an id without a token."""
        known = self._bytes.get(token)
        if known is None:
            name: str | None = self._backend.id_to_token(token)
            known = self._bytes[token] = b"" if name is None else self._to_bytes(name)
        return known

    def piece(self, token: int) -> str:
        """``token_bytes`` as text, for people to look at one token."""
        return self.token_bytes(token).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Piece:
    """``text`` may be shown now. ``stopped``: a stop string came, and nothing after ``text`` will be shown."""

    text: str
    stopped: bool


class Detokeniser:
    """The text of one answer. Held back: bytes of an unfinished character, and what may become a stop string.

    All pieces together are ``decode(tokens, skip_special_tokens=True)``, up to the first stop string. With a ``prompt``
    they are what follows its text: a leading space is kept, which some tokenizers drop from the beginning of a text.
    A stop string counts only where it ends in the text of a token that was pushed with ``stops``.
    """

    def __init__(self, text: Text, stop: tuple[str, ...] = (), prompt: Iterable[int] = ()) -> None:
        if "" in stop:
            raise ValueError("a stop string is empty")
        self._text = text
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._deaf = 0  # of what is held, so much may not end a stop string
        self._stopped = False
        self._strip = text.strips_first_space and not any(token not in text.special for token in prompt)

    def push(self, token: int, *, stops: bool = True) -> Piece:
        """What may be shown after ``token``; special tokens say nothing."""
        if token in self._text.special:
            return Piece("", self._stopped)
        return self._show(self._decoder.decode(self._text.token_bytes(token)), stops=stops, final=False)

    def flush(self) -> Piece:
        """The rest: no more tokens will come. An unfinished character becomes U+FFFD."""
        return self._show(self._decoder.decode(b"", final=True), stops=True, final=True)

    def _show(self, fresh: str, *, stops: bool, final: bool) -> Piece:
        if self._stopped:
            return Piece("", True)
        if self._strip and fresh:
            fresh = fresh.removeprefix(" ")
            self._strip = False
        text = self._held + fresh
        self._deaf = self._deaf if stops else len(text)
        found = (text.find(stop, max(0, self._deaf - len(stop) + 1)) for stop in self._stop)
        ends = [end for end in found if end >= 0]
        if ends:
            self._stopped, self._held = True, ""
            return Piece(text[: min(ends)], True)
        shown = len(text) if final else len(text) - self._unsure(text)
        self._held = text[shown:]
        self._deaf = max(0, self._deaf - shown)
        return Piece(text[:shown], False)

    def _unsure(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop string may begin with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def _join(pieces: Iterable[str]) -> str:
    """What a template says; one that does not stop saying it is stopped."""
    said, size = [], 0
    for piece in pieces:
        if piece:
            said.append(piece)
            size += len(piece)
        if size > MOST_LETTERS:
            raise TooLong(f"messages: the model's chat template makes more than {MOST_LETTERS} letters of them")
    return "".join(said)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ChatError(f"messages: content is {type(content).__name__}; must be a string or a list of text parts")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ChatError(f"messages: a content part of type {kind!r}; this model reads text parts only")
        parts.append(text)
    return "\n".join(parts)


def _config(file: Path) -> dict[str, Any]:
    """Raises OSError and ValueError for a file that cannot be read at all."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _ends(configs: Mapping[str, Mapping[str, Any]], of_tokenizer: int | None) -> Iterable[int]:
    if of_tokenizer is not None:
        yield of_tokenizer
    for name, config in configs.items():
        yield from ends.ends(name, config)


def _decoder_steps(decoder: Any) -> list[dict[str, Any]]:
    """What tokenizer.json calls the decoder, as a flat list of its steps."""
    state: dict[str, Any] = json.loads(decoder.__getstate__()) if decoder is not None else {"type": None}
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def _to_bytes(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes]:
    """How the name of a token becomes its bytes. Raises TextError for a decoder that looks at more than one token."""
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level
    if kinds <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"} and kinds & {"Metaspace", "Replace"}:
        return _sentence_piece
    raise TextError(
        f"tokenizer.json: decoder {sorted(map(str, kinds))} is not supported, only ByteLevel or SentencePiece"
    )


def _strips_first_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return step["type"] == "Strip" and bool(step["start"])


def _byte_letters() -> dict[str, int]:
    """Byte-level letter ▸ byte: printable Latin-1 stands for itself, the other bytes for letters from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_LETTERS = _byte_letters()


def _byte_level(name: str) -> bytes:
    try:
        return bytes(BYTE_LETTERS[letter] for letter in name)
    except KeyError:
        return name.encode()  # an added token, written as it is


def _sentence_piece(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    return name.replace(SPACE, " ").encode()
