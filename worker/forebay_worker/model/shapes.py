"""The models that random checkpoints imitate: true shapes, and tiny ones that differ in everything but size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TINY_VOCAB = 512


@dataclass(frozen=True)
class Likeness:
    """``family`` is transformers' model_type; ``true`` and ``tiny`` are the arguments of its config."""

    family: str
    true: Mapping[str, Any]
    tiny: Mapping[str, Any]
    common: Mapping[str, Any] = field(default_factory=dict)

    def config(self, tiny: bool) -> dict[str, Any]:
        if tiny:
            return {**self.common, "vocab_size": TINY_VOCAB, "max_position_embeddings": 512, **self.tiny}
        return {**self.common, **self.true}


def _llama(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, **rest: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **rest,
    }


LIKENESSES: Mapping[str, Likeness] = {
    "smollm2": Likeness(
        "llama",
        _llama(30, 576, 1536, 9, 3, vocab_size=49152, max_position_embeddings=8192),
        _llama(5, 96, 160, 3, 1),
        {"rope_theta": 100000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    ),
    "llama-1.1b": Likeness(
        "llama",
        _llama(22, 2048, 5632, 32, 4, vocab_size=32000, max_position_embeddings=2048),
        _llama(4, 64, 176, 4, 2),
        {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    ),
    "qwen2-0.5b": Likeness(
        "qwen2",
        _llama(24, 896, 4864, 14, 2, vocab_size=151936, max_position_embeddings=32768),
        _llama(3, 64, 160, 4, 2),
        {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    ),
    "qwen3-0.6b": Likeness(
        "qwen3",
        _llama(28, 1024, 3072, 16, 8, head_dim=128, vocab_size=151936, max_position_embeddings=40960),
        _llama(5, 64, 192, 4, 2, head_dim=32),
        {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    ),
    "mistral-7b": Likeness(
        "mistral",
        _llama(32, 4096, 14336, 32, 8, vocab_size=32768, max_position_embeddings=32768),
        _llama(4, 128, 256, 8, 2),
        {"rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "sliding_window": None, "tie_word_embeddings": False},
    ),
    "opt-1.3b": Likeness(
        "opt",
        {
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "word_embed_proj_dim": 2048,
            "ffn_dim": 8192,
            "num_attention_heads": 32,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
        },
        {
            "num_hidden_layers": 4,
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 256,
            "num_attention_heads": 4,
        },
        {"tie_word_embeddings": True},
    ),
    "gpt-neox-410m": Likeness(
        "gpt_neox",
        {
            "num_hidden_layers": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "vocab_size": 50304,
            "max_position_embeddings": 2048,
        },
        {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4},
        {"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
    ),
}
