"""Layers written out: transformers' numbers to the last bit, in each family that has such."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoints import FAMILIES
from engine_parts.local_pipeline import CPU, Slice, weights
from forebay_worker.engine.attention import positions
from forebay_worker.engine.kv import KvStore
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.model import block, skeleton

OURS = {"llama", "mistral", "qwen2", "qwen3"}
STEPS = (
    [Slice(0, 7, (3, 1)), Slice(0, 1, (2,))],
    [Slice(7, 1, (3, 1)), Slice(1, 1, (2,))],
    [Slice(8, 1, (3, 1, 5))],
    [Slice(9, 3, (3, 1, 5)), Slice(2, 1, (2,))],
)


def outputs(model: Path, dtype: str) -> list[torch.Tensor]:
    """Of every layer, step by step."""
    checkpoint = open_checkpoint(f"file://{model}", dtype)
    built = skeleton.Skeleton.build(checkpoint)
    for unit in range(built.layers + 2):
        built.fill(unit, {name: tensor.to(built.dtype) for name, tensor in weights(checkpoint, unit).items()})
    kv = KvStore(range(built.layers), 8, 4, built.kv_heads, built.head_dim, built.dtype, CPU)
    generator, found = torch.Generator().manual_seed(1), []
    for slices in STEPS:
        where = positions(slices, CPU)
        context = built.context(where, slices, kv)
        hidden = torch.randn(1, len(where), built.hidden_size, generator=generator).to(built.dtype)
        for layer in range(built.layers):
            hidden = built.layer(layer, hidden, context)
            found += [hidden]
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(OURS))
def test_equal_to_transformers(
    family: str, dtype: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = outputs(tiny(family), dtype)
    monkeypatch.setattr(block, "layer", block._called)
    for index, (one, other) in enumerate(zip(ours, outputs(tiny(family), dtype), strict=True)):
        assert torch.equal(one, other), f"layer output {index}"


@pytest.mark.parametrize("family", FAMILIES)
def test_which_are_written_out(family: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[torch.nn.Module] = []
    monkeypatch.setattr(block, "_called", called.append)
    built = skeleton.Skeleton.build(open_checkpoint(f"file://{tiny(family)}", "auto"))
    assert len(called) == (0 if family in OURS else built.layers)
