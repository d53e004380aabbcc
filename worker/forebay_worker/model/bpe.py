"""A byte-level BPE tokenizer, written as the files that transformers' AutoTokenizer reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice, product
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
    """Exactly ``size`` tokens (259 to 659): three special ones, the 256 bytes, and pairs of frequent letters.

    Every id decodes to something, so a random model of this vocabulary says something with every token."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = (TEXT_END, BEGIN, END)
    letters = sorted(ByteLevel.alphabet())
    pairs = size - len(special) - len(letters)
    if not 0 <= pairs <= len(FREQUENT) ** 2:
        raise ValueError(f"a small vocabulary has 259 to 659 tokens, not {size}")
    merges = tuple(islice(product(FREQUENT, repeat=2), pairs))
    return Vocabulary(
        tokens=(*special, *letters, *(left + right for left, right in merges)),
        merges=tuple((left, right) for left, right in merges),
        special=special,
        bos=BEGIN,
        eos=END,
        unknown=TEXT_END,
        chat_template=CHAT_TEMPLATE,
    )


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
