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
        """The workers that belong to pools of others. Worked out once for each set of pools."""
        if self.pools not in seen.outside:
            others = [names for pool, names in seen.pooled.items() if pool not in self.pools]
            seen.outside[self.pools] = NOBODY.union(*others)
        return seen.outside[self.pools]


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
    active = [(function, scale) for function in seen.functions if (scale := scales[function.function.key]).desired]
    for function, scale in active:
        for backbone in {function.backbone, function.previous} if function.previous else (function.backbone,):
            if backbone in seen.backbones and (share := _share(seen, backbone, function, scale)).desired:
                using.setdefault(backbone, []).append((function, share))
    there = {*seen.holders, *seen.by_backbone}
    return [
        *[_want(seen, backbone, by) for backbone, by in using.items()],
        *(Want(backbone) for backbone in there.difference(using, doubted)),
    ]


def _want(seen: Snapshot, backbone: str, using: Sequence[tuple[FunctionSeen, Scale]]) -> Want:
    each = [_of_one(seen, backbone, function, scale) for function, scale in using]
    if len(each) == 1:
        return each[0]
    limit = max([want.limit for want in each])
    together = ceil(sum([scale.load for _, scale in using]))
    return Want(
        backbone=backbone,
        desired=max(*[want.desired for want in each], min(together, limit)),
        limit=limit,
        max_stages=max([want.max_stages for want in each]),
        max_model_len=max([want.max_model_len for want in each]),
        prompt_tokens=max([want.prompt_tokens for want in each]),
        pressing=any(want.pressing for want in each),
        floor=max([want.floor for want in each]),
        oldest=min([want.oldest for want in each]),
        pools=frozenset[str]().union(*[want.pools for want in each]),
        priority=max([want.priority for want in each]),
    )


def _of_one(seen: Snapshot, backbone: str, function: FunctionSeen, scale: Scale) -> Want:
    spec, demand = function.function.spec, function.demand
    longest = seen.backbones[backbone].model.max_model_len
    return Want(
        backbone=backbone,
        desired=scale.desired,
        limit=max(scale.ceiling, scale.desired),
        max_stages=spec.loading.max_stages if spec.loading.strategy is LoadingStrategy.PIPELINED else 1,
        max_model_len=min(spec.model.max_model_len or longest, longest),
        prompt_tokens=TEMPLATE_TOKENS + demand.prompt_bytes // BYTES_PER_TOKEN,
        pressing=_presses(backbone, function),
        floor=scale.floor,
        oldest=demand.oldest_waiting or inf,
        pools=frozenset((spec.pool,)),
        priority=spec.priority,
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
