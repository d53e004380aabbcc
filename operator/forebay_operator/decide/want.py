"""What one backbone is wanted for, over all functions that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from forebay_api.function import FunctionKey, LoadingStrategy
from forebay_operator.decide.ledger import alone
from forebay_operator.decide.scale import Scale
from forebay_operator.decide.seen import FunctionSeen, Snapshot

# What a chat template and special tokens add to a prompt.
TEMPLATE_TOKENS = 24
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Want:
    """``desired`` replicas, at most ``limit`` workers filled. ``pressing``: requests wait or run, or it is to take over
    from the model before. ``floor``: it is wanted though nobody asks. ``oldest``: unix seconds since when a request
    waits (inf: none does). ``max_model_len`` in tokens. ``pools``: those of its functions."""

    backbone: str
    desired: int = 0
    limit: int = 0
    max_stages: int = 1
    max_model_len: int = 0
    prompt_tokens: int = 0
    pressing: bool = False
    floor: bool = False
    oldest: float = inf
    pools: frozenset[str] = frozenset()

    def outside(self, seen: Snapshot) -> frozenset[str]:
        """The workers that belong to pools of others."""
        return frozenset(worker.name for worker in seen.workers if worker.pool and worker.pool not in self.pools)


def wants(seen: Snapshot, scales: Mapping[FunctionKey, Scale]) -> tuple[Want, ...]:
    """Of every backbone that is known or held, those with requests first, by who has waited longest.

    A backbone that no function names any more is wanted zero times, once every function's model is known: until then
    (an operator just started) it may still turn out to be somebody's."""
    using: dict[str, list[FunctionSeen]] = {}
    for function in seen.functions:
        for backbone in {function.backbone, function.previous} & seen.backbones.keys():
            using.setdefault(backbone, []).append(function)
    found = [_want(seen, backbone, functions, scales) for backbone, functions in using.items()]
    if all(function.backbone in seen.backbones or function.failure for function in seen.functions):
        held = {backbone for worker in seen.workers for backbone in worker.holdings}
        run = {pipeline.backbone for pipeline in seen.pipelines}
        found += [Want(backbone) for backbone in (held | run) - using.keys()]
    return tuple(sorted(found, key=lambda want: (not want.pressing, want.oldest, want.backbone)))


def _want(
    seen: Snapshot, backbone: str, functions: Sequence[FunctionSeen], scales: Mapping[FunctionKey, Scale]
) -> Want:
    chosen = [_share(seen, backbone, function, scales[function.function.key]) for function in functions]
    active = [function for function, scale in zip(functions, chosen, strict=True) if scale.desired]
    if not active:
        return Want(backbone)
    chosen = [scale for scale in chosen if scale.desired]
    ceiling = max(scale.ceiling for scale in chosen)
    most = max(scale.desired for scale in chosen)
    desired = max(most, min(ceil(sum(scale.load for scale in chosen)), ceiling))
    specs = [function.function.spec for function in active]
    stages = [spec.loading.max_stages for spec in specs if spec.loading.strategy is LoadingStrategy.PIPELINED]
    longest = seen.backbones[backbone].model.max_model_len
    return Want(
        backbone=backbone,
        desired=desired,
        limit=max(ceiling, desired),
        max_stages=max(stages, default=1),
        max_model_len=min(longest, max(spec.model.max_model_len or longest for spec in specs)),
        prompt_tokens=TEMPLATE_TOKENS + max(function.demand.prompt_bytes for function in active) // BYTES_PER_TOKEN,
        pressing=any(_presses(backbone, function) for function in active),
        floor=any(scale.floor for scale in chosen),
        oldest=min(function.demand.oldest_waiting or inf for function in active),
        pools=frozenset(spec.pool for spec in specs),
    )


def _share(seen: Snapshot, backbone: str, function: FunctionSeen, scale: Scale) -> Scale:
    """What ``function`` wants of ``backbone``: of the one before its model changed no more than serves anyway, and of
    one that it cannot have nothing."""
    if backbone == function.previous:
        serving = sum(alone(seen, backbone, worker.name) for worker in seen.workers)
        most = min(scale.desired, max(serving, 1))
        return replace(scale, desired=most, load=min(scale.load, most), floor=0, ceiling=most)
    return scale if function.failure is None else replace(scale, desired=0)


def _presses(backbone: str, function: FunctionSeen) -> bool:
    if function.previous:
        return backbone == function.backbone
    return function.demand.waiting + function.demand.in_flight > 0
