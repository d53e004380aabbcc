"""One decoder layer, computed on the modules that transformers made for it.

    x ─┬─ norm ─ q, k, v ─ rotate ─ attend ─ o ─ + ─┬─ norm ─ down(act(gate) · up) ─ + ─▶
       └────────────────────────────────────────────┘└───────────────────────────────┘

So it is in Llama, Mistral, Qwen2 and Qwen3, and for these the sum is written out here: once a product has swept the
caches with its weights, each call of a module costs some 15 µs besides what it computes, and transformers' layer makes
sixteen. With what else falls away (nothing is transposed there and back, queries and keys are rotated together) a step
of one token of SmolLM2 takes 44 ms for 52 on two cores. Other families' layers are called as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from forebay_worker.engine.attention import Step, attend

Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
Layer: TypeAlias = Callable[[torch.Tensor, Step], torch.Tensor]
"""``hidden`` [T, hidden size] ▸ the same; keeps the keys and values of its tokens."""

# Where each class has its window: all else that differs is in the modules.
WINDOWS: dict[str, Callable[[Any], int | None]] = {
    "LlamaAttention": lambda _: None,
    "MistralAttention": lambda attention: attention.config.sliding_window,
    "Qwen2Attention": lambda attention: attention.sliding_window,
    "Qwen3Attention": lambda attention: attention.sliding_window,
}


def layer(module: Any) -> Layer:
    """How to compute ``module``, one of the decoder layers of a model."""
    attention = getattr(module, "self_attn", None)
    return _written_out(module) if type(attention).__name__ in WINDOWS else _called(module)


def _called(module: torch.nn.Module) -> Layer:
    def compute(hidden: torch.Tensor, step: Step) -> torch.Tensor:
        output: torch.Tensor = module(
            hidden[None], attention_mask=None, position_embeddings=step.rotary, forebay_step=step
        )
        return output[0]

    return compute


def _written_out(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    heads = _Heads(
        attention.q_proj.forward,
        attention.k_proj.forward,
        attention.v_proj.forward,
        attention.q_norm.forward if hasattr(attention, "q_norm") else None,
        attention.k_norm.forward if hasattr(attention, "k_norm") else None,
        attention.layer_idx,
        attention.head_dim,
        attention.scaling,
        WINDOWS[type(attention).__name__](attention),
    )
    before: Function = module.input_layernorm.forward
    out: Function = attention.o_proj.forward
    between: Function = module.post_attention_layernorm.forward
    gate: Function = mlp.gate_proj.forward
    act: Function = mlp.act_fn.forward
    up: Function = mlp.up_proj.forward
    down: Function = mlp.down_proj.forward

    def compute(hidden: torch.Tensor, step: Step) -> torch.Tensor:
        attended = out(heads.answer(before(hidden), step)).add_(hidden)
        middle = between(attended)
        return down(act(gate(middle)).mul_(up(middle))).add_(attended)

    return compute


@dataclass(frozen=True, slots=True)
class _Heads:
    query: Function
    key: Function
    value: Function
    query_norm: Function | None
    key_norm: Function | None
    layer: int
    head_dim: int
    scaling: float
    window: int | None

    def answer(self, hidden: torch.Tensor, step: Step) -> torch.Tensor:
        """``hidden`` [T, hidden size] ▸ [T, heads × head_dim]."""
        tokens = hidden.shape[0]
        shape = tokens, -1, self.head_dim
        query, key = self.query(hidden).view(shape), self.key(hidden).view(shape)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        heads = query.shape[1]
        both = step.turned(torch.cat((query, key), 1))
        value = self.value(hidden).view(shape)
        told = attend(both[:, :heads], both[:, heads:], value, self.layer, self.scaling, self.window, step)
        return told.view(tokens, -1)
