"""What transformers itself answers, greedily, and how to compare with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tosses import COIN_TOSS, TALLY


@dataclass(frozen=True)
class Expected:
    """``gaps[i]`` is how far the best logit was ahead when token i was chosen."""

    tokens: list[int]
    gaps: list[float]


class Reference:
    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, prompt: Sequence[int], tokens: int) -> Expected:
        ids = torch.tensor([list(prompt)])
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = (logits[0].topk(2).values for logits in output.logits)
        return Expected(output.sequences[0, len(prompt) :].tolist(), [float(two[0] - two[1]) for two in best])


def check(expected: Expected, answer: Sequence[int]) -> None:
    """``answer`` is the reference's, up to a coin toss."""
    pairs = enumerate(zip(expected.tokens, answer, strict=True))
    apart = next((index for index, (wanted, token) in pairs if wanted != token), None)
    TALLY.count(tossed=apart is not None)
    assert apart is None or expected.gaps[apart] < COIN_TOSS, f"token {apart}: {answer} is not {expected.tokens}"
