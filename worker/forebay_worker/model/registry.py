"""Per architecture: which tensors a unit consists of, and where the modules are. Adding an architecture is one row.

Names are those of transformers' state dict. May not live here: torch, files, anything that acts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST_LAYERS = 512
"""Several times what any model has; where to cut is searched in the square of it."""
LARGEST = 2**31 - 1

Shapes = dict[str, tuple[int, ...]]  # tensor name inside its module ▸ shape


class UnsupportedArchitecture(ValueError):
    """No row for this model, or a variant of a known one that would be computed wrongly; the message says which."""


class InvalidConfig(ValueError):
    """config.json lacks a field or has a value of the wrong kind; the message names both."""


@dataclass(frozen=True, slots=True)
class Dims:
    """The numbers of a config that shapes follow from. ``window`` is the sliding window in tokens, None without one."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    tied: bool
    window: int | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """Module paths inside the model, and the tensors of one decoder layer.

    ``positions`` is the path of learned positions, whose row of position p is p + ``position_offset``; ``rotary`` the
    path of the module that turns positions into angles. ``renames`` turn older tensor names in files into today's,
    ``ignored`` are tensors that files may carry though the model computes them itself. ``needs`` are config values
    without which the model is computed differently. ``defaults`` are what transformers' class of the config takes for
    a field that config.json leaves out: not always what papers say. ``grouped``: heads may share keys, and have a size
    of their own."""

    name: str
    family: str
    embedding: str
    layers: str
    norm: str
    layer: Callable[[Dims, Mapping[str, Any]], Shapes]
    grouped: bool = False
    norm_bias: bool = False
    head: str = "lm_head"
    rotary: str | None = None
    positions: str | None = None
    position_offset: int = 0
    intermediate_field: str = "intermediate_size"
    defaults: tuple[tuple[str, Any], ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = (r"\.rotary_emb\.inv_freq$",)
    needs: tuple[tuple[str, Any], ...] = ()

    def dims(self, config: Mapping[str, Any]) -> Dims:
        """Raises InvalidConfig naming the field, or UnsupportedArchitecture."""
        config = {**dict(self.defaults), **config}
        self._check_variant(config)
        hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        dims = Dims(
            hidden=hidden,
            layers=_size(config, "num_hidden_layers", most=MOST_LAYERS),
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads", heads),
            head_dim=_size(config, "head_dim", hidden // heads),
            intermediate=_size(config, self.intermediate_field),
            vocab=_size(config, "vocab_size"),
            max_positions=_size(config, "max_position_embeddings"),
            tied=bool(config.get("tie_word_embeddings")),
            window=_window(config),
        )
        self._check_heads(dims)
        return dims

    def _check_heads(self, dims: Dims) -> None:
        """What would only fail when it computes."""
        if dims.heads % dims.kv_heads:
            raise InvalidConfig(
                f"config.json: num_key_value_heads is {dims.kv_heads}; must divide num_attention_heads, {dims.heads}"
            )
        if self.rotary and dims.head_dim % 2:
            raise InvalidConfig(f"config.json: head_dim is {dims.head_dim}; must be even, as positions turn pairs")
        if not self.grouped and (dims.kv_heads != dims.heads or dims.head_dim * dims.heads != dims.hidden):
            raise InvalidConfig(
                f"config.json: {dims.heads} heads of {dims.head_dim} with {dims.kv_heads} heads of keys do not make "
                f"hidden_size, {dims.hidden}; {self.name} has as many heads of keys, and no others"
            )

    def _check_variant(self, config: Mapping[str, Any]) -> None:
        if config.get("quantization_config"):
            raise UnsupportedArchitecture(f"{self.name}: quantised weights (quantization_config) are not supported")
        for field, value in self.needs:
            if config.get(field, value) != value:
                raise UnsupportedArchitecture(
                    f"{self.name}: {field}={config[field]!r} is not supported, only {value!r}"
                )
        width = config.get("word_embed_proj_dim", config.get("hidden_size"))
        if width != config.get("hidden_size"):
            raise UnsupportedArchitecture(
                f"{self.name}: word_embed_proj_dim={width} is not hidden_size: projected embeddings are not supported"
            )
        for kind in _rope_types(config):
            if kind in ("dynamic", "longrope"):
                # Their angles depend on the longest sequence of the batch: requests would change one another.
                raise UnsupportedArchitecture(f"{self.name}: rope type {kind!r} is not supported")

    def unit_shapes(self, dims: Dims, config: Mapping[str, Any]) -> tuple[Shapes, ...]:
        """Tensors of every unit, by full name: embedding tables, each layer, and norm with output matrix.

        A tied matrix is listed with the last unit, under the name of the embedding."""
        matrix = (dims.vocab, dims.hidden)
        embedding: Shapes = {} if dims.tied else {f"{self.embedding}.weight": matrix}
        if self.positions:
            embedding[f"{self.positions}.weight"] = (dims.max_positions + self.position_offset, dims.hidden)
        layer = self.layer(dims, config)
        layers = tuple(
            {f"{self.layers}.{index}.{name}": shape for name, shape in layer.items()} for index in range(dims.layers)
        )
        head: Shapes = {f"{self.norm}.weight": (dims.hidden,)}
        if self.norm_bias:
            head[f"{self.norm}.bias"] = (dims.hidden,)
        head[f"{self.embedding if dims.tied else self.head}.weight"] = matrix
        return (embedding, *layers, head)

    def canonical(self, name: str) -> str:
        """Today's name of a tensor that a file calls ``name``."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def ignores(self, name: str, dims: Dims) -> bool:
        """Whether a tensor may be in the files without being loaded."""
        duplicate = dims.tied and name == f"{self.head}.weight"
        return duplicate or any(re.search(pattern, name) for pattern in self.ignored)


def find(config: Mapping[str, Any]) -> Architecture:
    """The row of a config.json. Raises UnsupportedArchitecture listing what is supported."""
    names = config.get("architectures")
    row = ARCHITECTURES.get(str(names[0])) if isinstance(names, list) and names else None
    if row is None:
        supported = ", ".join(ARCHITECTURES)
        raise UnsupportedArchitecture(f"config.json: architectures is {names!r}; supported: {supported}")
    return row


def _size(config: Mapping[str, Any], field: str, default: int | None = None, most: int = LARGEST) -> int:
    value = config.get(field)
    value = default if value is None else value
    if value is None:
        raise InvalidConfig(f"config.json: {field} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidConfig(f"config.json: {field} is {value!r}; must be a positive integer")
    if value > most:
        raise InvalidConfig(f"config.json: {field} is {value}; at most {most}")
    return value


def _rope_types(config: Mapping[str, Any]) -> Iterator[Any]:
    """Of both fields, since transformers takes the older one first; and of each kind of layer, if they differ."""
    for scaling in (config.get("rope_parameters"), config.get("rope_scaling")):
        if isinstance(scaling, dict):
            for described in (scaling, *scaling.values()):
                if isinstance(described, dict):
                    yield from (described.get("rope_type"), described.get("type"))
        else:
            yield scaling


def _window(config: Mapping[str, Any]) -> int | None:
    """Qwen writes a window down and switches it off by a second field; Mistral has the one field only."""
    if not config.get("use_sliding_window", True) or config.get("sliding_window") is None:
        return None
    return _size(config, "sliding_window")


def _linear(shapes: Shapes, name: str, outputs: int, inputs: int, bias: bool = False) -> None:
    shapes[f"{name}.weight"] = (outputs, inputs)
    if bias:
        shapes[f"{name}.bias"] = (outputs,)


def _layer_norm(shapes: Shapes, name: str, size: int) -> None:
    shapes[f"{name}.weight"] = (size,)
    shapes[f"{name}.bias"] = (size,)


def _gated(dims: Dims, *, qkv_bias: bool, out_bias: bool, mlp_bias: bool) -> Shapes:
    """A layer of the Llama kind: RMS norms, grouped-query attention, gated MLP."""
    shapes: Shapes = {"input_layernorm.weight": (dims.hidden,), "post_attention_layernorm.weight": (dims.hidden,)}
    queries, keys = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    _linear(shapes, "self_attn.q_proj", queries, dims.hidden, qkv_bias)
    _linear(shapes, "self_attn.k_proj", keys, dims.hidden, qkv_bias)
    _linear(shapes, "self_attn.v_proj", keys, dims.hidden, qkv_bias)
    _linear(shapes, "self_attn.o_proj", dims.hidden, queries, out_bias)
    _linear(shapes, "mlp.gate_proj", dims.intermediate, dims.hidden, mlp_bias)
    _linear(shapes, "mlp.up_proj", dims.intermediate, dims.hidden, mlp_bias)
    _linear(shapes, "mlp.down_proj", dims.hidden, dims.intermediate, mlp_bias)
    return shapes


def _llama_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    attention, mlp = bool(config.get("attention_bias", False)), bool(config.get("mlp_bias", False))
    return _gated(dims, qkv_bias=attention, out_bias=attention, mlp_bias=mlp)


def _mistral_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    return _gated(dims, qkv_bias=False, out_bias=False, mlp_bias=False)


def _qwen2_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    return _gated(dims, qkv_bias=True, out_bias=False, mlp_bias=False)


def _qwen3_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    attention = bool(config.get("attention_bias", False))
    shapes = _gated(dims, qkv_bias=attention, out_bias=attention, mlp_bias=False)
    shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (dims.head_dim,)
    return shapes


def _opt_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    shapes: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        _linear(shapes, f"self_attn.{name}", dims.hidden, dims.hidden, bias=True)
    _linear(shapes, "fc1", dims.intermediate, dims.hidden, bias=True)
    _linear(shapes, "fc2", dims.hidden, dims.intermediate, bias=True)
    _layer_norm(shapes, "self_attn_layer_norm", dims.hidden)
    _layer_norm(shapes, "final_layer_norm", dims.hidden)
    return shapes


def _gpt_neox_layer(dims: Dims, config: Mapping[str, Any]) -> Shapes:
    shapes: Shapes = {}
    bias = bool(config.get("attention_bias", True))
    _linear(shapes, "attention.query_key_value", 3 * dims.hidden, dims.hidden, bias)
    _linear(shapes, "attention.dense", dims.hidden, dims.hidden, bias)
    _linear(shapes, "mlp.dense_h_to_4h", dims.intermediate, dims.hidden, bias=True)
    _linear(shapes, "mlp.dense_4h_to_h", dims.hidden, dims.intermediate, bias=True)
    _layer_norm(shapes, "input_layernorm", dims.hidden)
    _layer_norm(shapes, "post_attention_layernorm", dims.hidden)
    return shapes


def _llama_like(
    name: str, family: str, layer: Callable[[Dims, Mapping[str, Any]], Shapes], **rest: Any
) -> Architecture:
    return Architecture(
        name=name,
        family=family,
        embedding="model.embed_tokens",
        layers="model.layers",
        norm="model.norm",
        rotary="model.rotary_emb",
        layer=layer,
        grouped=True,
        **rest,
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    row.name: row
    for row in (
        _llama_like("LlamaForCausalLM", "llama", _llama_layer),
        _llama_like(
            "MistralForCausalLM",
            "mistral",
            _mistral_layer,
            defaults=(("num_key_value_heads", 8), ("sliding_window", 4096)),
        ),
        _llama_like(
            "Qwen2ForCausalLM",
            "qwen2",
            _qwen2_layer,
            defaults=(("num_key_value_heads", 32), ("use_sliding_window", False)),
        ),
        _llama_like(
            "Qwen3ForCausalLM",
            "qwen3",
            _qwen3_layer,
            defaults=(("num_key_value_heads", 32), ("head_dim", 128), ("use_sliding_window", False)),
        ),
        Architecture(
            name="OPTForCausalLM",
            family="opt",
            embedding="model.decoder.embed_tokens",
            positions="model.decoder.embed_positions",
            position_offset=2,
            layers="model.decoder.layers",
            norm="model.decoder.final_layer_norm",
            norm_bias=True,
            layer=_opt_layer,
            intermediate_field="ffn_dim",
            defaults=(("tie_word_embeddings", True),),
            renames=((r"^decoder\.", "model.decoder."),),
            needs=(
                ("do_layer_norm_before", True),
                ("_remove_final_layer_norm", False),
                ("enable_bias", True),
                ("layer_norm_elementwise_affine", True),
            ),
        ),
        Architecture(
            name="GPTNeoXForCausalLM",
            family="gpt_neox",
            embedding="gpt_neox.embed_in",
            layers="gpt_neox.layers",
            norm="gpt_neox.final_layer_norm",
            norm_bias=True,
            rotary="gpt_neox.rotary_emb",
            layer=_gpt_neox_layer,
            renames=((r"^embed_out\.", "lm_head."),),
            ignored=(r"\.rotary_emb\.inv_freq$", r"\.attention\.(bias|masked_bias)$"),
        ),
    )
}
