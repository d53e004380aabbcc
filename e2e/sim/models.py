"""Models by size, and what a step of one costs on a device: the shipped `Model` and `Costs`, from stated constants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from forebay_api.model import Model, Unit, UnitKind
from forebay_operator.decide.cut import compute_seconds, seconds_of
from forebay_operator.decide.seen import Costs

BYTES = 2  # per weight: bfloat16
BANDWIDTH = 2.0e12
"""Bytes of weights that a device reads in a second (an H100 at 60 % of what its memory could)."""
FLOPS = 4.0e14
"""Multiplications and additions in a second on long prompts (the same device at 40 %)."""
LAUNCH = 20e-6
"""Seconds that a layer takes at least."""
SAMPLED = (1, 16, 64, 256, 1024, 4096)

# Layers, hidden size, width within a layer, vocabulary, KV bytes per token and layer.
SHAPES = {
    "1b": (16, 2048, 8192, 128_256, 2048),
    "8b": (32, 4096, 14_336, 128_256, 4096),
    "14b": (40, 5120, 17_408, 151_936, 4096),
}


@dataclass(frozen=True, eq=False)
class Kind:
    """A model and what computing it costs. ``budget``: the most tokens in a step."""

    model: Model
    costs: Costs
    budget: int = 2048

    def step(self, tokens: int, drawn: int) -> float:
        """Seconds of a step of ``tokens`` through all layers, of which ``drawn`` go through the head."""
        return self.model.layers * seconds_of(self.costs.layer, tokens) + seconds_of(self.costs.head, max(drawn, 1))

    def prefill(self, tokens: int) -> float:
        """Seconds of computing a prompt of ``tokens`` when all weights are there."""
        return sum(compute_seconds(self.model, self.costs, tokens))


@cache
def sized(size: str) -> Kind:
    """The model of that size. Raises ValueError for one that is not in `SHAPES`."""
    if size not in SHAPES:
        raise ValueError(f"model size {size!r} is not known: one of {', '.join(SHAPES)}")
    layers, hidden, width, vocabulary, kv = SHAPES[size]
    layer = 3 * hidden * width + 5 * hidden * hidden // 2
    return Kind(made(size, layers, layer * BYTES, hidden * vocabulary * BYTES, kv), _costs(layer, hidden * vocabulary))


def made(name: str, layers: int, layer_bytes: int, head_bytes: int, kv: int = 1) -> Model:
    """A model of equal layers between an embedding and a head of one size."""
    sizes = [head_bytes, *[layer_bytes] * layers, head_bytes]
    kinds = [UnitKind.EMBEDDING, *[UnitKind.LAYER] * layers, UnitKind.HEAD]
    units = tuple(Unit(i, kind, size, size, size) for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)))
    return Model(
        backbone=name,
        uri=f"file:///{name}",
        dtype="bfloat16",
        architecture="llama",
        units=units,
        tied=False,
        hidden_size=1,
        layers=layers,
        vocab_size=1,
        max_model_len=131_072,
        kv_bytes_per_token_per_layer=kv,
    )


def _costs(layer: int, head: int) -> Costs:
    def samples(parameters: int) -> tuple[tuple[int, float], ...]:
        return tuple(
            (tokens, LAUNCH + max(parameters * BYTES / BANDWIDTH, 2 * parameters * tokens / FLOPS))
            for tokens in SAMPLED
        )

    return Costs(layer=samples(layer), head=samples(head), hop=0.0005, far_hop=0.001)
