"""Norms in one call: transformers' numbers to the last bit, in each family that has them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from forebay_worker.model.norm import ALIKE, Norm, replace_norms

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def theirs(family: str, size: int) -> Any:
    module = import_module(f"transformers.models.{family}.modeling_{family}")
    (name,) = (each for each in ALIKE if each.lower() == f"{family}rmsnorm")
    return getattr(module, name)(size, eps=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [8, 576])
@torch.inference_mode()
def test_equal_to_transformers(family: str, size: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(size)
    with torch.device("meta"):
        model = torch.nn.Sequential(theirs(family, size))
    replace_norms(model)
    ours, reference = model[0], theirs(family, size)
    assert type(ours) is Norm
    for norm in (ours, reference):
        norm._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
    for rows in (1, 5, 64):
        for scale in (1e-4, 1.0, 1e3):
            hidden = torch.randn(1, rows, size) * scale
            assert torch.equal(ours(hidden), reference(hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_and_other_norms_stay(dtype: torch.dtype) -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(theirs("llama", 8).to(dtype), torch.nn.LayerNorm(8))
    before = list(model)
    replace_norms(model)
    assert list(model) == before
