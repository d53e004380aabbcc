"""Attention over paged KV for a packed, ragged batch, behind transformers' attention interface.

A step is one row of tokens, [1, T]: slices of several sequences one after another, some in prefill, some in decode. A
layer writes the keys and values of all of them into their blocks, then each slice attends to its own sequence:

    tokens    │ a7 │ b0 b1 b2 b3 │ c31 │        slice b: prefill, causal;  a and c: decode, one query each
    blocks    │ a a │ c │ b │   │ c │           a, b lie in one piece: a view.  c does not: gathered

What depends on the step alone is worked out once, in ``Step``, not once per layer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from forebay_worker.engine.kv import KvStore

NAME = "forebay"
CALL_BYTES = 256 * 1024  # one more call costs a CPU at least as much as copying this much
CACHED_BYTES = 3 * 1024**2  # copies up to here stay in the cache of a CPU, and in memory that is already mapped
SCRATCH_BYTES = 256 * 1024**2  # of a GPU


class Slice(Protocol):
    """``length`` tokens of one sequence from position ``start``; ``blocks`` covers at least start + length tokens."""

    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def blocks(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """One slice, to a layer of one window: the queries ``rows`` see ``span`` keys, in one piece or by slot."""

    rows: slice
    span: int
    first_slot: int  # of the piece; meaningless when ``slots`` is given
    slots: torch.Tensor | None
    causal: bool
    mask: torch.Tensor | None  # [queries, span], true where a key is seen


@dataclass(frozen=True, slots=True)
class _Decodes:
    """Slices of one query, computed at once: pays where a call costs more than a copy of what they see."""

    rows: torch.Tensor  # [sequences]
    slots: torch.Tensor  # [sequences × span], padded with slots of the same sequence
    mask: torch.Tensor | None  # [sequences, 1, 1, span], true where a key is seen; None: all are


@dataclass(frozen=True, slots=True)
class Gather:
    """Slices of one token that see at most ``span`` keys share a call, of at most ``total`` keys."""

    span: int
    total: int

    @classmethod
    def suiting(cls, device: torch.device, kv: KvStore) -> Gather:
        if device.type == "cpu":
            return cls(CALL_BYTES // kv.token_bytes, CACHED_BYTES // kv.token_bytes)
        return cls(sys.maxsize, SCRATCH_BYTES // kv.token_bytes)


@dataclass(frozen=True, slots=True)
class _Layout:
    parts: tuple[_Part, ...]
    decodes: tuple[_Decodes, ...]


@dataclass(slots=True)
class Step:
    """What all layers of a stage share in one step. Bound to one ``kv``; lives while the step is parked, too."""

    positions: torch.Tensor  # [T]
    slices: Sequence[Slice]
    kv: KvStore
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None  # cosines and sines, [1, T, rotary dims]
    gather: Gather | None = None  # None: what suits the device
    slots: torch.Tensor = field(init=False)  # [T], where the new keys and values go
    _end: int = field(init=False)
    _turn: tuple[torch.Tensor, torch.Tensor] | None = field(init=False, default=None)
    _layouts: dict[int | None, _Layout] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        size = self.kv.block_tokens
        slots = [
            part.blocks[position // size] * size + position % size
            for part in self.slices
            for position in range(part.start, part.start + part.length)
        ]
        if len(slots) != len(self.positions):
            raise ValueError(f"{len(self.positions)} positions for {len(slots)} tokens of {len(self.slices)} slices")
        self.slots = torch.tensor(slots, device=self.positions.device)
        self._end = max(part.start + part.length for part in self.slices)

    def turned(self, heads: torch.Tensor) -> torch.Tensor:
        """``heads`` [T, n, rotary dims], each rotated by its token's position:

            x · cos + (−x₂, x₁) · sin  =  x · cos + (x₂, x₁) · (−sin, sin)

        which takes four calls for transformers' seven and rounds alike in every dtype."""
        if self._turn is None:
            assert self.rotary is not None, "this model does not rotate"
            cosines, sines = (each[0].unsqueeze(1) for each in self.rotary)
            half = sines.shape[-1] // 2
            self._turn = cosines, torch.cat((-sines[..., :half], sines[..., half:]), -1)
        cosines, signed = self._turn
        return heads * cosines + heads.roll(heads.shape[-1] // 2, -1) * signed

    def layout(self, window: int | None) -> _Layout:
        """How slices meet their keys in layers where a token sees the last ``window`` tokens, itself included."""
        if window is not None and window >= self._end:
            window = None
        if window not in self._layouts:
            device = self.positions.device
            gather = self.gather or Gather.suiting(device, self.kv)
            self._layouts[window] = _lay_out(self.slices, self.kv.block_tokens, window, device, gather)
        return self._layouts[window]


def positions(slices: Sequence[Slice], device: torch.device) -> torch.Tensor:
    """Positions [T] of the tokens of ``slices``, one after another."""
    flat = [position for part in slices for position in range(part.start, part.start + part.length)]
    return torch.tensor(flat, device=device)


def interface(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    forebay_step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """``attend`` as transformers calls it: ``query`` [1, heads, T, head_dim], ``key`` and ``value`` [1, kv_heads, T,
    head_dim] ▸ [1, T, heads, head_dim]."""
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    return attend(query, key, value, module.layer_idx, scaling, sliding_window, forebay_step)[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layer: int,
    scaling: float | None,
    window: int | None,
    step: Step,
) -> torch.Tensor:
    """``query`` [T, heads, head_dim], ``key`` and ``value`` [T, kv_heads, head_dim], which are kept ▸ the shape of
    ``query``."""
    kv = step.kv
    kv.write(layer, step.slots, key, value)
    keys, values = kv.layer(layer)
    tokens, heads, head_dim = query.shape
    layout = step.layout(window)
    grouped = query.reshape(tokens, kv.kv_heads, heads // kv.kv_heads, head_dim)
    if len(layout.parts) == tokens:
        alone = _multiplied if query.device.type == "cpu" and query.dtype == torch.float32 else _attended
        answers = [
            alone(row, *_seen(part, keys, values), scaling)
            for part, row in zip(layout.parts, grouped.unbind(0), strict=True)
        ]
        return (torch.cat(answers) if tokens > 1 else answers[0]).view(tokens, heads, head_dim)
    answer = torch.empty_like(grouped)
    for decodes in layout.decodes:
        answer[decodes.rows] = _decode(decodes, grouped, keys, values, scaling)
    for part in layout.parts:
        answer[part.rows] = _prefill(part, grouped[part.rows], keys, values, scaling)
    return answer.view(tokens, heads, head_dim)


def _multiplied(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """One ``query`` [kv_heads, group, head_dim], and the same back. With 60, 300 and 1,300 ``keys`` of SmolLM2 this
    takes 34, 40 and 117 µs on two cores, and what torch has for attention 36, 68 and 267."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    scores *= query.shape[-1] ** -0.5 if scaling is None else scaling
    return torch.bmm(scores.softmax(-1), values)


def _attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None) -> torch.Tensor:
    apart = query.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1)
    return scaled_dot_product_attention(*apart, scale=scaling)


def _prefill(
    part: _Part, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """``query`` [queries, kv_heads, group, head_dim], and the same back."""
    group = query.shape[2]
    seen, told = (each.unsqueeze(1).expand(-1, group, -1, -1) for each in _seen(part, keys, values))
    answer = scaled_dot_product_attention(
        query.permute(1, 2, 0, 3), seen, told, attn_mask=part.mask, is_causal=part.causal, scale=scaling
    )
    return answer.permute(2, 0, 1, 3)


def _decode(
    decodes: _Decodes, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """``query`` [T, kv_heads, group, head_dim] ▸ the answers of ``decodes.rows``, in that order."""
    shape = (len(decodes.rows), -1, *keys.shape[1:])
    seen, told = (tensor.index_select(0, decodes.slots).view(shape).transpose(1, 2) for tensor in (keys, values))
    return scaled_dot_product_attention(query[decodes.rows], seen, told, attn_mask=decodes.mask, scale=scaling)


def _seen(part: _Part, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys and values of ``part`` as [kv_heads, span, head_dim]."""
    if part.slots is not None:
        keys, values = keys.index_select(0, part.slots), values.index_select(0, part.slots)
    _, kv_heads, head_dim = keys.shape
    size = (kv_heads, part.span, head_dim)
    stride = (head_dim, kv_heads * head_dim, 1)
    offset = 0 if part.slots is not None else part.first_slot * kv_heads * head_dim
    # One call, where slicing and transposing are two: this runs for every slice in every layer.
    return (
        torch.as_strided(keys, size, stride, keys.storage_offset() + offset),
        torch.as_strided(values, size, stride, values.storage_offset() + offset),
    )


def _lay_out(
    slices: Sequence[Slice], block_tokens: int, window: int | None, device: torch.device, gather: Gather
) -> _Layout:
    firsts = list(accumulate((part.length for part in slices), initial=0))
    groups = _groups(slices, window, gather)
    apart = set(range(len(slices))).difference(*groups)
    parts = (
        _part(slices[index], slice(firsts[index], firsts[index + 1]), block_tokens, window, device)
        for index in sorted(apart)
    )
    decodes = (
        _decodes(
            [slices[index] for index in group],
            torch.tensor([firsts[index] for index in group], device=device),
            block_tokens,
            window,
        )
        for group in groups
    )
    return _Layout(tuple(parts), tuple(decodes))


def _groups(slices: Sequence[Slice], window: int | None, gather: Gather) -> list[list[int]]:
    """Indices of the slices that share a call, those of like length together, since they are padded to the longest."""
    spans = {index: min(part.start + 1, window or sys.maxsize) for index, part in enumerate(slices) if part.length == 1}
    groups: list[list[int]] = [[]]
    for index, span in sorted(spans.items(), key=itemgetter(1)):
        if span > gather.span:
            break
        if (len(groups[-1]) + 1) * span > gather.total:
            groups.append([])
        groups[-1].append(index)
    return [group for group in groups if len(group) > 1]


def _part(part: Slice, rows: slice, block_tokens: int, window: int | None, device: torch.device) -> _Part:
    end = part.start + part.length
    low = 0 if window is None else max(0, part.start + 1 - window)
    blocks = tuple(part.blocks[low // block_tokens : -(-end // block_tokens)])
    in_one_piece = blocks == tuple(range(blocks[0], blocks[0] + len(blocks)))
    slots = None if in_one_piece else _slots(part.blocks, range(low, end), block_tokens, device)
    cut = window is not None and end - low > window
    causal = part.length > 1 and part.start == 0 and not cut
    mask = None
    if part.length > 1 and not causal:
        seen_from = torch.arange(low, end, device=device)
        asking = torch.arange(part.start, end, device=device)[:, None]
        mask = seen_from <= asking
        if cut and window is not None:
            mask &= seen_from > asking - window
    first_slot = blocks[0] * block_tokens + low % block_tokens
    return _Part(rows, end - low, first_slot, slots, causal, mask)


def _slots(blocks: Sequence[int], tokens: range, block_tokens: int, device: torch.device) -> torch.Tensor:
    table = torch.tensor(tuple(blocks), device=device)
    wanted = torch.arange(tokens.start, tokens.stop, device=device)
    return table[wanted // block_tokens] * block_tokens + wanted % block_tokens


def _decodes(slices: Sequence[Slice], rows: torch.Tensor, block_tokens: int, window: int | None) -> _Decodes:
    device = rows.device
    longest = max(len(part.blocks) for part in slices)
    tables = torch.tensor([[*part.blocks, *[0] * (longest - len(part.blocks))] for part in slices], device=device)
    last = torch.tensor([part.start for part in slices], device=device)
    low = last * 0 if window is None else (last + 1 - window).clamp(min=0)
    spans = {min(part.start + 1, window or sys.maxsize) for part in slices}
    span = max(spans)
    wanted = low[:, None] + torch.arange(span, device=device)
    mask = (wanted <= last[:, None])[:, None, None, :] if len(spans) > 1 else None
    # Padding repeats the newest token: memory that nobody has written is never read, not even to be masked.
    wanted = torch.minimum(wanted, last[:, None])
    slots = tables.gather(1, wanted // block_tokens) * block_tokens + wanted % block_tokens
    return _Decodes(rows, slots.flatten(), mask)


AttentionInterface.register(NAME, interface)
