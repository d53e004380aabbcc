"""What `transformers` itself answers: the tokens that every mode of Forebay must give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tosses import COIN_TOSS, TALLY

PROMPTS = [
    "A mill",
    "The river runs past the old mill and on to the sea, and nobody knows how long it has done so. " * 3,
    "One two three four five six seven",
    "def turbine(flow, head):\n    return",
]
"""Of mixed lengths."""


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread: workers compute on the same cores, and a team waits for whoever of it has none."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Reference:
    """Greedy answers of one checkpoint, computed once each."""

    folder: Path
    _answers: dict[tuple[str, int, bool], tuple[str, list[str], int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def answer(self, prompt: str, max_tokens: int, *, chat: bool) -> tuple[str, list[str], int | None]:
        """(text, text after each token, index of the first coin toss if any)."""
        key = (prompt, max_tokens, chat)
        if key not in self._answers:
            self._answers[key] = self._generate(prompt, max_tokens, chat)
        return self._answers[key]

    def check(self, got: str, prompt: str, max_tokens: int, *, chat: bool) -> None:
        """``got`` is the reference's text, up to a coin toss."""
        text, prefixes, toss = self.answer(prompt, max_tokens, chat=chat)
        TALLY.count(tossed=got != text)
        if got == text:
            return
        assert toss is not None, f"{prompt!r}\n got {got!r}\nwant {text!r}"
        certain = prefixes[toss - 1] if toss else ""
        assert got.startswith(certain.rstrip("\ufffd")), (
            f"{prompt!r} differs before its coin toss\n got {got!r}\nwant {text!r}"
        )

    def _generate(self, prompt: str, max_tokens: int, chat: bool) -> tuple[str, list[str], int | None]:
        if chat:
            ids = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
        else:
            ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode(), _alone():
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        tokens = made.sequences[0, ids.shape[1] :].tolist()
        toss = None
        for index, logits in enumerate(made.logits):
            best = logits[0].topk(2).values
            if float(best[0] - best[1]) < COIN_TOSS:
                toss = index
                break
        prefixes = [self._text(tokens[: index + 1]) for index in range(len(tokens))]
        return self._text(tokens), prefixes, toss

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
