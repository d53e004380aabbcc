"""Keys and values of one pipeline on one worker: the tensors. Which block belongs to whom is decided in ``blocks``."""

from __future__ import annotations

import math
import mmap

import torch

from forebay_worker.engine.blocks import BlockPool, IntegrityError

__all__ = ["BlockPool", "IntegrityError", "KvStore"]


class KvStore:
    """One tensor [2, blocks × block_tokens, kv_heads, head_dim] per decoder layer: keys, then values, by slot.

    ``layers`` are global decoder layer indices (unit − 1). Slot = block × block_tokens + offset. On the CPU memory is
    taken from the system page by page as slots are first written, and given back when the store is dropped.
    """

    def __init__(
        self,
        layers: range,
        blocks: int,
        block_tokens: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.dtype = dtype
        shape = (2, blocks * block_tokens, kv_heads, head_dim)
        tensors = {layer: _untouched(shape, dtype, device) for layer in layers}
        # Taken apart once: a step would do it in every layer.
        self._halves = {layer: (tensor[0], tensor[1]) for layer, tensor in tensors.items()}

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._halves.values())

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put ``keys`` and ``values`` [tokens, kv_heads, head_dim] into ``slots`` [tokens]."""
        own_keys, own_values = self._halves[layer]
        own_keys.index_copy_(0, slots, keys)
        own_values.index_copy_(0, slots, values)

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [slots, kv_heads, head_dim] of ``layer``, all slots, written or not. Not copies."""
        return self._halves[layer]


def _untouched(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    # Anonymous pages, not malloc: none is touched before it is written, all go back to the system at the end.
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
