"""How long one decoder layer and the head unit take on this device: what the planner's predictions rest on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch

from forebay_worker.device import Device, OutOfMemory
from forebay_worker.engine import attention
from forebay_worker.engine.kv import KvStore
from forebay_worker.formation import Probe, Sample
from forebay_worker.load.checkpoint import Checkpoint
from forebay_worker.model.skeleton import Skeleton
from forebay_worker.team import Team

LAYER_TOKENS = (1, 64, 16, 256)
ALWAYS = 2  # of these, whatever time they take, both ways: from one size alone, a prompt would cost its multiple
ROUNDS = 3  # the shortest counts, of as many as there is time for: a machine that is busy just then must not look slow
QUEUED = 8  # calls of a GPU's sample: a step too waits for it once, not at each layer
SECONDS = 0.25  # for the layer, and as much again for the head
WEIGHT = 0.01  # any number but zero: untouched pages would all be the same cached one


@dataclass(frozen=True, slots=True)
class _Slice:
    start: int
    length: int
    blocks: Sequence[int]


def measure(checkpoint: Checkpoint, skeleton: Skeleton, device: Device, team: Team) -> Probe:
    """Takes about half a second, on the device thread while nothing else runs.

    Uses resident units where there are any, else stand-ins of the same shape. A part without memory has no samples.
    """
    resident = sorted(skeleton.resident)
    layers = [unit for unit in resident if 1 <= unit <= skeleton.layers] or [1]
    with _filled(checkpoint, skeleton, device, layers[0]) as there:
        layer = _samples(LAYER_TOKENS, _layer(skeleton, layers[0] - 1, device), device, team) if there else ()
    with _filled(checkpoint, skeleton, device, skeleton.layers + 1) as there:
        head = _samples((1,), _head(skeleton, device), device, team) if there else ()
    return Probe(checkpoint.model.backbone, layer, head)


@contextmanager
def _filled(checkpoint: Checkpoint, skeleton: Skeleton, device: Device, unit: int) -> Iterator[bool]:
    """``unit`` is resident for a while; False when there is no memory for that."""
    if unit in skeleton.resident:
        yield True
        return
    try:
        reservation = device.memory.reserve("probe", checkpoint.model.units[unit].resident_bytes)
    except OutOfMemory:
        yield False
        return
    try:
        skeleton.fill(
            unit,
            {part.name: _stand_in(part.shape, skeleton.dtype, device) for part in checkpoint.tensors[unit]},
        )
        yield True
    finally:
        skeleton.clear(unit)
        reservation.release()
        device.trim()


def _stand_in(shape: Sequence[int], dtype: torch.dtype, device: Device) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return device.arena(size).view(dtype).view(*shape).fill_(WEIGHT)


def _layer(skeleton: Skeleton, layer: int, device: Device) -> Callable[[int, int], None]:
    block_tokens = 16
    blocks = -(-max(LAYER_TOKENS) // block_tokens)
    kv = KvStore(
        range(layer, layer + 1),
        blocks,
        block_tokens,
        skeleton.kv_heads,
        skeleton.head_dim,
        skeleton.dtype,
        device.torch_device,
    )

    def run(tokens: int, times: int) -> None:
        slices = (_Slice(0, tokens, range(blocks)),)
        hidden = torch.full((1, tokens, skeleton.hidden_size), WEIGHT, dtype=skeleton.dtype, device=device.torch_device)
        context = skeleton.context(attention.positions(slices, device.torch_device), slices, kv)
        for _ in range(times):
            skeleton.layer(layer, hidden, context)

    return run


def _head(skeleton: Skeleton, device: Device) -> Callable[[int, int], None]:
    def run(rows: int, times: int) -> None:
        hidden = torch.full((rows, skeleton.hidden_size), WEIGHT, dtype=skeleton.dtype, device=device.torch_device)
        for _ in range(times):
            skeleton.logits(hidden).argmax(-1).tolist()

    return run


def _samples(sizes: Sequence[int], run: Callable[[int, int], None], device: Device, team: Team) -> tuple[Sample, ...]:
    """First of the team, then of one thread: of a team each operation waits for whoever has one of its cores, and looks
    twenty times as slow. One thread computes all by itself, so on a CPU its own clock counts, which stands still while
    others have the core. In rounds over all ``sizes``, so that a moment in which others computed does not fall on one
    of them; where it did, the next larger says more: fewer tokens never take longer."""
    alone = time.perf_counter if device.kind == "cuda" else time.thread_time
    team.fit()
    best = _shortest(sizes, run, device, time.perf_counter)
    team.alone()
    for size, seconds in _shortest(sizes, run, device, alone).items():
        best[size] = min(best.get(size, seconds), seconds)
    largest_first = sorted(best, reverse=True)
    shortest = accumulate((best[size] for size in largest_first), min)
    return tuple(map(Sample, largest_first, shortest))[::-1]


def _shortest(
    sizes: Sequence[int], run: Callable[[int, int], None], device: Device, clock: Callable[[], float]
) -> dict[int, float]:
    """Seconds by ``clock`` of those ``sizes`` for which there was time."""
    best: dict[int, float] = {}
    times = QUEUED if device.kind == "cuda" else 1
    _computed(run, 1, 1, device)  # the first call of a kind is slow
    end = time.perf_counter() + SECONDS / 2
    for turn in range(ROUNDS):
        for number, size in enumerate(sizes):
            if (turn or number >= ALWAYS) and time.perf_counter() + times * best.get(size, 0.0) > end:
                continue
            began = clock()
            _computed(run, size, times, device)
            best[size] = min(best.get(size, float("inf")), (clock() - began) / times)
    return best


def _computed(run: Callable[[int, int], None], size: int, times: int, device: Device) -> None:
    run(size, times)
    if device.kind == "cuda":
        torch.cuda.synchronize(device.torch_device)
