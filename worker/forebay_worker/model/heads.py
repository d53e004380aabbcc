"""Attention between its four matrices, with fewer calls than transformers makes: queries and keys are rotated together,
and nothing is transposed there and back. One token of SmolLM2 on a CPU: TODO µs for TODO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from forebay_worker.engine.attention import Step, attend

# transformers' classes that differ in norms before the rotation alone, and in where their window is found.
WINDOWS: dict[str, Callable[[Any], int | None]] = {
    "LlamaAttention": lambda _: None,
    "MistralAttention": lambda theirs: theirs.config.sliding_window,
    "Qwen2Attention": lambda theirs: theirs.sliding_window,
    "Qwen3Attention": lambda theirs: theirs.sliding_window,
}


class Heads(torch.nn.Module):
    """Has the modules of one of these classes, under their names; equal to it to the last bit."""

    q_proj: torch.nn.Module
    k_proj: torch.nn.Module
    v_proj: torch.nn.Module
    o_proj: torch.nn.Module
    q_norm: torch.nn.Module
    k_norm: torch.nn.Module

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        for name, module in theirs.named_children():
            self.add_module(name, module)
        self._normed = hasattr(theirs, "q_norm")
        self._layer: int = theirs.layer_idx
        self._head_dim: int = theirs.head_dim
        self._scaling: float = theirs.scaling
        self._window = WINDOWS[type(theirs).__name__](theirs)

    def forward(self, hidden_states: torch.Tensor, forebay_step: Step, **_others: Any) -> tuple[torch.Tensor, None]:
        """``hidden_states`` [1, T, hidden] ▸ the same."""
        tokens = hidden_states.shape[1]
        query, key, value = (
            each(hidden_states).view(tokens, -1, self._head_dim) for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self._normed:
            query, key = self.q_norm(query), self.k_norm(key)
        both = forebay_step.turned(torch.cat((query, key), 1))
        query, key = both.split((query.shape[1], key.shape[1]), 1)
        answer = attend(query, key, value, self._layer, self._scaling, self._window, forebay_step)
        return self.o_proj(answer.view(1, tokens, -1)), None


def replace_heads(model: torch.nn.Module) -> None:
    """Put ours in the place of each attention of these classes in ``model``."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ in WINDOWS:
            model.set_submodule(name, Heads(module))
