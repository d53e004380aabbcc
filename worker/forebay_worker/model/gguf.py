"""Read a GGUF file of the Llama family: its weights as float32 under Hugging Face names, its config, its tokenizer.

Only what turns a shipped GGUF into a safetensors checkpoint lives here; nothing of it runs in a worker that serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebay_worker.model.bpe import Vocabulary

if TYPE_CHECKING:
    import numpy as np

LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of a special token


class GgufError(ValueError):
    """The file is not a GGUF that can be converted; the message says why."""


@dataclass(frozen=True)
class LlamaShape:
    """The numbers of a Llama config, in its own words."""

    layers: int
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    vocab: int
    context: int
    rope_theta: float
    rms_norm_eps: float


class LlamaGguf:
    """One open file. ``tensors()`` dequantizes one tensor at a time, so the peak is the largest of them in float32."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        try:
            self._reader: Any = GGUFReader(path)
        except (OSError, ValueError) as error:
            raise GgufError(f"{path}: not a readable GGUF file ({error})") from error
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise GgufError(f"{path}: architecture {architecture!r}; only 'llama' can be converted")
        self.tensor_count = len(self._reader.tensors)
        self.tied = all(tensor.name != "output.weight" for tensor in self._reader.tensors)

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise GgufError(f"GGUF metadata lacks {key}")
        return field.contents()

    def shape(self) -> LlamaShape:
        return LlamaShape(
            layers=self._field("llama.block_count"),
            heads=self._field("llama.attention.head_count"),
            kv_heads=self._field("llama.attention.head_count_kv"),
            hidden=self._field("llama.embedding_length"),
            intermediate=self._field("llama.feed_forward_length"),
            vocab=self._field("llama.vocab_size"),
            context=self._field("llama.context_length"),
            rope_theta=self._field("llama.rope.freq_base"),
            # Stored as a 32-bit float: 1e-5 reads back as 9.99999974e-06.
            rms_norm_eps=float(f"{self._field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        )

    def vocabulary(self) -> Vocabulary:
        tokens: list[str] = self._field("tokenizer.ggml.tokens")
        kinds: list[int] = self._field("tokenizer.ggml.token_type")
        return Vocabulary(
            tokens=tuple(tokens),
            merges=tuple(_pair(merge) for merge in self._field("tokenizer.ggml.merges")),
            special=tuple(token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN),
            bos=tokens[self._field("tokenizer.ggml.bos_token_id")],
            eos=tokens[self._field("tokenizer.ggml.eos_token_id")],
            unknown=tokens[self._field("tokenizer.ggml.unknown_token_id")],
            chat_template=self._field("tokenizer.chat_template"),
            # The "smollm" pre-tokenizer splits numbers into single digits before the byte-level expression.
            single_digits=self._field("tokenizer.ggml.pre") == "smollm",
        )

    def tensors(self) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
        """(Hugging Face name, float32 array in torch's row-major shape), in the order of the file."""
        import numpy as np
        from gguf import dequantize

        shape = self.shape()
        heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}
        for tensor in self._reader.tensors:
            name, part = _translate(tensor.name)
            array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            array = array.reshape(tuple(int(size) for size in reversed(tensor.shape)))
            if part in heads:
                array = _halves_first(array, heads[part])
            yield name, np.ascontiguousarray(array)


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _translate(name: str) -> tuple[str, str]:
    """``blk.3.attn_q.weight`` ▸ (``model.layers.3.self_attn.q_proj.weight``, ``attn_q``)."""
    pieces = name.split(".")
    if pieces[0] == "blk" and len(pieces) == 4 and pieces[2] in LLAMA_LAYER:
        return f"model.layers.{pieces[1]}.{LLAMA_LAYER[pieces[2]]}.{pieces[3]}", pieces[2]
    if len(pieces) == 2 and pieces[0] in LLAMA_GLOBAL:
        return f"{LLAMA_GLOBAL[pieces[0]]}.{pieces[1]}", pieces[0]
    raise GgufError(f"GGUF tensor {name!r} has no place in a Llama model")


def _halves_first(array: Any, heads: int) -> Any:
    """GGUF interleaves the rotary halves of a head (x0 y0 x1 y1 …); Hugging Face has x0 x1 … y0 y1 …."""
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
