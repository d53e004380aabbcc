"""A byte-level BPE tokenizer, written as the files that transformers' AutoTokenizer reads."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import count, islice, product
from pathlib import Path

BEGIN, END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
FREQUENT = "etaoinshrdlucmfwypvb"  # letters of English, the most frequent first

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """``tokens`` by id, in byte-level letters (a space is Ġ); ``merges`` by rank."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    special: tuple[str, ...]
    bos: str
    eos: str
    unknown: str
    chat_template: str
    single_digits: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


def small(size: int) -> Vocabulary:
    """Exactly ``size`` tokens (259 or more): three special ones, the 256 bytes, and frequent letters in a row.

    Every id decodes to something, so a random model of this vocabulary says something with every token."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = (TEXT_END, BEGIN, END)
    least = Vocabulary(
        tokens=(*special, *sorted(ByteLevel.alphabet())),
        merges=(),
        special=special,
        bos=BEGIN,
        eos=END,
        unknown=TEXT_END,
        chat_template=CHAT_TEMPLATE,
    )
    return filled(least, size)


def filled(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """``vocabulary`` with as many tokens of frequent letters in a row, the shortest first, as make it ``size``.

    Each is a merge of a token that is there with one more letter, behind all merges that were there before: what a
    text is in tokens may change, what they are as text does not. Raises ValueError when there are more already."""
    missing = size - len(vocabulary)
    if missing < 0:
        raise ValueError(f"vocabulary: has {len(vocabulary)} tokens; cannot be filled up to {size}")
    known = set(vocabulary.tokens)
    rows = ("".join(row) for length in count(2) for row in product(FREQUENT, repeat=length))
    fresh = tuple(islice((row for row in rows if row not in known), missing))
    merges = tuple((row[:-1], row[-1]) for row in fresh)
    return replace(vocabulary, tokens=vocabulary.tokens + fresh, merges=vocabulary.merges + merges)


def write(vocabulary: Vocabulary, folder: Path, context: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja. ``context`` is in tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=list(vocabulary.merges)))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if vocabulary.single_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in vocabulary.special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": vocabulary.bos,
        "eos_token": vocabulary.eos,
        "pad_token": vocabulary.eos,
        "unk_token": vocabulary.unknown,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(vocabulary.chat_template, encoding="utf-8")
