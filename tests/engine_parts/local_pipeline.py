"""A pipeline of several stages in one thread: the engine's parts put together with nothing in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open

from forebay_worker.engine.attention import positions
from forebay_worker.engine.kv import BlockPool, KvStore
from forebay_worker.load.checkpoint import Checkpoint, open_checkpoint
from forebay_worker.model.skeleton import Skeleton

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slice:
    start: int
    length: int
    blocks: tuple[int, ...]


@dataclass
class Request:
    """Wants ``answer_tokens`` after ``prompt``; may begin at step ``joins``."""

    prompt: list[int]
    answer_tokens: int
    joins: int = 0
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def done(self) -> bool:
        return len(self.answer) == self.answer_tokens


def weights(checkpoint: Checkpoint, unit: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for part in checkpoint.tensors[unit]:
        with safe_open(part.file, "pt") as file:
            tensors[part.name] = file.get_tensor(part.name)
    return tensors


class LocalPipeline:
    """``stages`` skeletons with a segment each; hidden states and token ids are all that passes between them."""

    def __init__(self, folder: Path, stages: int, blocks: int = 256, block_tokens: int = 16) -> None:
        checkpoint = open_checkpoint(f"file://{folder}", "auto")
        units = len(checkpoint.model.units)
        cuts = [round(index * units / stages) for index in range(stages + 1)]
        self.segments = [range(first, end) for first, end in pairwise(cuts)]
        self.pool = BlockPool(blocks, block_tokens)
        self.skeletons: list[Skeleton] = []
        self.stores: list[KvStore] = []
        for segment in self.segments:
            skeleton = Skeleton.build(checkpoint)
            for unit in segment:
                skeleton.fill(unit, weights(checkpoint, unit))
            layers = range(max(segment.start - 1, 0), min(segment.stop - 1, skeleton.layers))
            shape = (skeleton.kv_heads, skeleton.head_dim)
            self.skeletons.append(skeleton)
            self.stores.append(KvStore(layers, blocks, block_tokens, *shape, skeleton.dtype, CPU))

    def step(self, slices: Sequence[Slice], tokens: Sequence[int]) -> torch.Tensor:
        """Logits [slices, vocabulary] after the last token of each slice."""
        ids = torch.tensor(tokens)
        where = positions(slices, CPU)
        hidden = (self.skeletons[-1] if self.skeletons[0].tied else self.skeletons[0]).token_rows(ids)
        if self.skeletons[0].learned_positions:
            hidden = hidden + self.skeletons[0].position_rows(where)
        hidden = hidden[None]
        for skeleton, store in zip(self.skeletons, self.stores, strict=True):
            context = skeleton.context(where, slices, store)
            hidden = torch.frombuffer(bytearray(hidden.numpy().tobytes()), dtype=hidden.dtype).view(hidden.shape)
            for layer in store.layers:
                hidden = skeleton.layer(layer, hidden, context)
        ends = torch.tensor([part.length for part in slices]).cumsum(0) - 1
        return self.skeletons[-1].logits(hidden[0, ends])

    def run(self, requests: Sequence[Request], chunk: int = 10_000) -> None:
        """Greedy answers to all of them, in steps that mix decoding with prefill in pieces of ``chunk`` tokens."""
        step = 0
        while not all(request.done for request in requests):
            active = [
                (number, request)
                for number, request in enumerate(requests)
                if step >= request.joins and not request.done and self._admitted(number, request)
            ]
            step += 1
            if active:
                self._advance(active, chunk)
        self.pool.check()

    def _admitted(self, number: int, request: Request) -> bool:
        if not request.tokens:
            cached = self.pool.admit(number, request.prompt)
            if cached is None:
                return False
            request.computed = request.cached = cached
            request.tokens = list(request.prompt)
        return True

    def _advance(self, active: Sequence[tuple[int, Request]], chunk: int) -> None:
        slices, tokens = [], []
        for number, request in active:
            length = min(chunk, len(request.tokens) - request.computed)
            assert self.pool.grow(number, len(request.tokens))
            slices.append(Slice(request.computed, length, self.pool.table(number)))
            tokens += request.tokens[request.computed : request.computed + length]
        best = self.step(slices, tokens).argmax(dim=-1).tolist()
        for (number, request), part, token in zip(active, slices, best, strict=True):
            request.computed = part.start + part.length
            self.pool.commit(number, request.tokens[: request.computed])
            if request.computed == len(request.tokens):
                request.tokens.append(token)
            if request.done:
                self.pool.release(number)
