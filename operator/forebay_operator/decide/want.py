"""What one backbone is wanted for, over all functions that use it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import ceil, inf
from typing import NamedTuple

from forebay_api.function import FunctionKey, LoadingStrategy
from forebay_operator.decide.ledger import alone
from forebay_operator.decide.pressure import NO_TURN, Turn
from forebay_operator.decide.scale import Scale
from forebay_operator.decide.seen import FunctionSeen, Snapshot

# What a chat template and special tokens add to a prompt.
TEMPLATE_TOKENS = 24
BYTES_PER_TOKEN = 4

NOBODY = frozenset[str]()


class Want(NamedTuple):
    """``desired`` replicas, at most ``limit`` workers filled. ``pressing``: requests wait or run, or it is to take over
    from the model before. ``floor``: so many are wanted though nobody asks. ``oldest``: unix seconds since when a
    request waits (inf: none does). ``max_model_len`` in tokens. ``pools``: those of its functions. ``priority``: the
    highest of those that are active."""

    backbone: str
    desired: int = 0
    limit: int = 0
    max_stages: int = 1
    max_model_len: int = 0
    prompt_tokens: int = 0
    pressing: bool = False
    floor: int = 0
    oldest: float = inf
    pools: frozenset[str] = frozenset()
    priority: int = 0

    @property
    def claims(self) -> bool:
        """Whether others must make room for it."""
        return self.pressing or self.floor > 0

    @property
    def minimum(self) -> int:
        """Replicas that it needs, whatever more it wants."""
        return max(int(self.pressing), min(self.floor, self.desired))

    def outside(self, seen: Snapshot) -> frozenset[str]:
        """The workers that belong to pools of others."""
        return NOBODY.union(*[names for pool, names in seen.pooled.items() if pool not in self.pools])


def waiting(seen: Snapshot, scales: Mapping[FunctionKey, Scale]) -> Mapping[str, float]:
    """Of each backbone that requests wait for and may have, unix seconds since when the oldest does."""
    found: dict[str, float] = {}
    for function in seen.functions:
        if function.demand.waiting and function.serving and scales[function.function.key].desired:
            since = function.demand.oldest_waiting
            found[function.serving] = min(found.get(function.serving, inf), since)
    return found


def in_order(wanted: Sequence[Want], turns: Mapping[str, Turn], now: float) -> tuple[Want, ...]:
    """Those that others make room for first: of these who has waited too long, then by priority, those with requests,
    those that have nothing, and who has waited longest."""

    def key(want: Want) -> tuple[bool, bool, int, bool, float, float, str]:
        turn = turns.get(want.backbone, NO_TURN)
        late = want.claims and turn.late(now)
        lacking = turn.lacking or inf
        return not want.claims, not late, -want.priority, not want.pressing, lacking, want.oldest, want.backbone

    return tuple(sorted(wanted, key=key))


def wants(seen: Snapshot, scales: Mapping[FunctionKey, Scale], doubted: Collection[str] = ()) -> list[Want]:
    """Of every backbone that is wanted or held, or has pipelines.

    A backbone that no function names any more is wanted zero times, unless it is ``doubted``: it may still turn out to
    be somebody's."""
    using: dict[str, list[tuple[FunctionSeen, Scale]]] = {}
    for function in seen.functions:
        for backbone in {function.backbone, function.previous} if function.previous else (function.backbone,):
            if backbone in seen.backbones:
                scale = _share(seen, backbone, function, scales[function.function.key])
                if scale.desired:
                    using.setdefault(backbone, []).append((function, scale))
    there = {*seen.holders, *seen.by_backbone}
    return [
        *(_want(seen, backbone, active) for backbone, active in using.items()),
        *(Want(backbone) for backbone in there.difference(using, doubted)),
    ]


def _want(seen: Snapshot, backbone: str, using: Sequence[tuple[FunctionSeen, Scale]]) -> Want:
    # Lists, not generators: of one function each, mostly, they take half as long.
    ceiling = max([scale.ceiling for _, scale in using])
    most = max([scale.desired for _, scale in using])
    desired = max(most, min(ceil(sum([scale.load for _, scale in using])), ceiling))
    specs = [function.function.spec for function, _ in using]
    stages = [spec.loading.max_stages for spec in specs if spec.loading.strategy is LoadingStrategy.PIPELINED]
    longest = seen.backbones[backbone].model.max_model_len
    return Want(
        backbone=backbone,
        desired=desired,
        limit=max(ceiling, desired),
        max_stages=max(stages, default=1),
        max_model_len=min(longest, max([spec.model.max_model_len or longest for spec in specs])),
        prompt_tokens=TEMPLATE_TOKENS + max([function.demand.prompt_bytes for function, _ in using]) // BYTES_PER_TOKEN,
        pressing=any(_presses(backbone, function) for function, _ in using),
        floor=max([scale.floor for _, scale in using]),
        oldest=min([function.demand.oldest_waiting or inf for function, _ in using]),
        pools=frozenset([spec.pool for spec in specs]),
        priority=max([spec.priority for spec in specs]),
    )


def _share(seen: Snapshot, backbone: str, function: FunctionSeen, scale: Scale) -> Scale:
    """What ``function`` wants of ``backbone``: of the one before its model changed no more than serves anyway, and of
    one that it cannot have nothing."""
    if backbone == function.previous:
        serving = sum(alone(seen, backbone, worker.name) for worker in seen.workers)
        most = min(scale.desired, max(serving, 1))
        return scale._replace(desired=most, load=min(scale.load, most), floor=0, ceiling=most)
    return scale if function.failure is None or not scale.desired else scale._replace(desired=0)


def _presses(backbone: str, function: FunctionSeen) -> bool:
    if function.previous:
        return backbone == function.backbone
    return function.demand.waiting + function.demand.in_flight > 0
