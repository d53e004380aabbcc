"""Products with few rows: the same numbers as torch's own, whatever the order they are computed in."""

from __future__ import annotations

import pytest
import torch

from forebay_worker.model.linear import PIECE_HEIGHT, Linear, replace_linears

ROWS = (1, 3, 4, 5, 17, 63, 64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("height", [24, PIECE_HEIGHT + 5])
@torch.inference_mode()
def test_equal_to_torch(height: int, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(1)
    ours = Linear(40, height, bias, dtype=dtype)
    for rows in ROWS:
        for hidden in (torch.randn(1, rows, 40, dtype=dtype), torch.randn(40, rows, dtype=dtype).t()):
            answer = ours(hidden)
            expected = torch.nn.functional.linear(hidden, ours.weight, ours.bias)
            assert answer.shape == expected.shape
            assert answer.is_contiguous()
            torch.testing.assert_close(answer, expected)


def test_every_linear_of_a_model_is_replaced_and_nothing_else() -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2, bias=False))
    replace_linears(model)
    first, norm, last = model
    assert isinstance(first, Linear)
    assert isinstance(last, Linear)
    assert type(norm) is torch.nn.LayerNorm
    assert (first.in_features, first.out_features, first.bias is None) == (3, 5, False)
    assert (last.in_features, last.out_features, last.bias is None) == (5, 2, True)
    assert first.weight.is_meta
    assert last.weight.is_meta
