"""Layers written out: transformers' numbers to the last bit, in each family that has such."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import FAMILIES, edit_config
from engine_parts.local_pipeline import CPU, Slice, weights
from forebay_worker.engine.attention import positions
from forebay_worker.engine.kv import KvStore
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.model import block, skeleton
from forebay_worker.model.norm import Norm
from forebay_worker.model.registry import find

Tiny = Callable[[str], Path]
OURS = ("llama", "mistral", "qwen2", "qwen3")
STEPS = (
    [Slice(0, 7, (3, 1)), Slice(0, 1, (2,))],
    [Slice(7, 1, (3, 1)), Slice(1, 1, (2,))],
    [Slice(8, 1, (3, 1, 5))],
    [Slice(9, 3, (3, 1, 5)), Slice(2, 1, (2,))],
)
WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None}
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((family, {}) for family in OURS),
    ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "relu"}),
    ("mistral", {"sliding_window": 4}),
    ("qwen2", WINDOW),
    ("qwen3", {"attention_bias": True, **WINDOW}),
)


def varied(model: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """The same model by another config, with random weights as that one has them."""
    shutil.copytree(model, folder)
    edit_config(folder, **changes)
    config = json.loads((folder / "config.json").read_text())
    paths = find(config)
    units = paths.unit_shapes(paths.dims(config), config)
    generator = torch.Generator().manual_seed(2)
    shapes = dict(chain.from_iterable(unit.items() for unit in units))
    tensors = {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


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
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_equal_to_transformers(
    family: str, changes: dict[str, Any], dtype: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = varied(tiny(family), tmp_path / "model", changes)
    ours = outputs(model, dtype)
    monkeypatch.setattr(block, "layer", block._called)
    monkeypatch.setattr(skeleton, "replace_norms", lambda _: None)
    for index, (one, other) in enumerate(zip(ours, outputs(model, dtype), strict=True)):
        assert torch.equal(one, other), f"layer output {index}"


@pytest.mark.parametrize("family", FAMILIES)
def test_which_are_written_out(family: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[torch.nn.Module] = []
    monkeypatch.setattr(block, "_called", called.append)
    built = skeleton.Skeleton.build(open_checkpoint(f"file://{tiny(family)}", "auto"))
    assert len(called) == (0 if family in OURS else built.layers)


@pytest.mark.parametrize("named", ["float32", "bfloat16", None])
@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_norms_go_by_the_dtype_that_is_computed_in(named: str | None, asked: str, tiny: Tiny, tmp_path: Path) -> None:
    model = varied(tiny("llama"), tmp_path / "model", {"dtype": named})
    built = skeleton.Skeleton.build(open_checkpoint(f"file://{model}", asked))
    assert isinstance(built._norm, Norm) is (asked == "float32")
