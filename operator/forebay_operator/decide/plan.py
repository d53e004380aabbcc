"""One pass: from what is seen to the steps that bring it nearer to what is wanted. Nothing is left to say once it is
so.

The same pass starts, grows, shrinks, repairs and ends: each backbone is compared with what it is wanted for, those with
requests first, and whatever differs becomes a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

from forebay_api.conditions import Reason
from forebay_api.function import FunctionKey
from forebay_operator.decide import lead, routes
from forebay_operator.decide.cut import Cut, Refusal, best_cut
from forebay_operator.decide.doubt import doubts
from forebay_operator.decide.dues import NO_LACK, Dues, Lack
from forebay_operator.decide.gauge import rises
from forebay_operator.decide.intents import applied
from forebay_operator.decide.kv import min_tokens
from forebay_operator.decide.ledger import held_units, whole
from forebay_operator.decide.order import Stages, fillers, holds, servable
from forebay_operator.decide.place import behind, candidates, nobody, rooms
from forebay_operator.decide.pressure import Payment, Turns
from forebay_operator.decide.scale import Scale, desired
from forebay_operator.decide.seen import Snapshot
from forebay_operator.decide.steps import Inspect, Prepare, Step
from forebay_operator.decide.turns import advanced
from forebay_operator.decide.want import Want, in_order, waiting, wants


@dataclass(frozen=True, slots=True)
class Plan:
    """``wake_at``: unix seconds when time alone may change the answer. ``refusals``: why a function's model is
    nowhere. ``payments``: who is asked in this pass to give devices up. ``turns``: for the next pass to know."""

    steps: tuple[Step, ...]
    scales: Mapping[FunctionKey, Scale]
    wake_at: float | None = None
    refusals: Mapping[FunctionKey, Refusal] = field(default_factory=dict)
    payments: tuple[Payment, ...] = ()
    turns: Turns = field(default_factory=Turns)


class _Draft:
    """The steps so far, and the snapshot as it is once they are told."""

    def __init__(self, seen: Snapshot) -> None:
        self.seen = seen
        self.steps: list[Step] = []

    def add(self, steps: Sequence[Step]) -> None:
        self.steps += steps
        self.seen = applied(self.seen, steps)


def next_steps(seen: Snapshot, now: float) -> Plan:
    """What to do now. Steps stand in the order in which each worker must hear them."""
    leads = lead.leads(seen, filter(rises, seen.functions))
    scales = {
        function.function.key: desired(function, now, routes.replicas(seen, function.serving), lead.of(function, leads))
        for function in seen.functions
    }
    draft = _Draft(seen)
    draft.add(_inspections(draft.seen))
    draft.add(_preparations(draft.seen))
    doubted = doubts(draft.seen, now)
    dues = _settle_all(draft, scales, doubted, now)
    wakes = (*(scale.wake_at for scale in scales.values()), dues.wake_at(), *doubted.values())
    return Plan(
        steps=tuple(draft.steps),
        scales=scales,
        wake_at=min((at for at in wakes if at is not None), default=None),
        refusals={
            function.function.key: dues.refused[function.backbone]
            for function in seen.functions
            if function.backbone in dues.refused and scales[function.function.key].desired
        },
        payments=tuple(dues.new),
        turns=dues.left(),
    )


def _settle_all(draft: _Draft, scales: Mapping[FunctionKey, Scale], doubted: Collection[str], now: float) -> Dues:
    """Every backbone but the ``doubted`` ones, in the order in which room is made for it, and once more those who had
    to make it after all."""
    known = wants(draft.seen, scales, doubted)
    claiming = {want.backbone for want in known if want.claims}
    turns = advanced(draft.seen, waiting(draft.seen, scales), claiming, now)
    draft.seen = draft.seen.with_turns(turns)
    wanted = in_order(known, turns.of, now)
    dues = Dues(wanted, turns, now, _place)
    settled: dict[str, Want] = {}
    for want in wanted:
        lack = _settle(draft, want, dues.banned(draft.seen, want))
        if asked := dues.settle(draft.seen, want, lack):
            for payer in sorted({payment.payer for payment in asked} & settled.keys()):
                _settle(draft, settled[payer], dues.banned(draft.seen, settled[payer]))
        settled[want.backbone] = want
    return dues


def _inspections(seen: Snapshot) -> list[Inspect]:
    """One for every model that is not known, of a ready worker of its function's pool."""
    readers: dict[tuple[str, str], str] = {}
    for function in seen.functions:
        if not function.backbone and function.failure is None and not function.inspecting:
            spec = function.function.spec
            if (reader := function.reader(seen.ready(spec.pool))) is not None:
                readers.setdefault((spec.model.uri, spec.model.dtype), reader)
    return [Inspect(reader, uri, dtype) for (uri, dtype), reader in readers.items()]


def _preparations(seen: Snapshot) -> list[Prepare]:
    """Skeleton and tokenizer on every ready worker of a function's pool, before anybody asks; compute is measured once
    for each set of resources, and only while nothing is known of it."""
    found = []
    ready = sorted((worker for worker in seen.workers if worker.ready), key=lambda worker: worker.name)
    everywhere = frozenset[str]().union(*(worker.prepared for worker in ready[:1]))
    everywhere = everywhere.intersection(*{worker.prepared for worker in ready})
    done = {backbone for backbone, known in seen.backbones.items() if known.costs.layer and backbone in everywhere}
    pools: dict[str, set[str]] = {}
    for function in seen.functions:
        if function.failure is None and function.backbone in seen.backbones and function.backbone not in done:
            pools.setdefault(function.backbone, set()).add(function.function.spec.pool)
    for backbone in sorted(pools):
        unmeasured = not seen.backbones[backbone].costs.layer
        able = [worker for worker in ready if unmeasured or backbone not in worker.prepared]
        able = [worker for worker in able if any(map(worker.serves, pools[backbone]))]
        measured = {worker.compute for worker in able if backbone in worker.probed}
        for worker in able:
            probe = unmeasured and worker.compute not in measured
            if probe or backbone not in worker.prepared:
                found.append(Prepare(worker.name, backbone, probe))
                measured.add(worker.compute)
    return found


def _settle(draft: _Draft, want: Want, banned: Set[str]) -> Lack:
    """Adds the steps for one backbone. Returns what it lacks."""
    backbone = want.backbone
    if routes.at_rest(draft.seen, want, banned):
        return NO_LACK
    draft.add(routes.endings(draft.seen, backbone))
    if not want.desired:
        _clear(draft, want)
        return NO_LACK
    kept = routes.keepers(draft.seen, want, banned)
    draft.add(routes.drains(draft.seen, want, kept, banned))
    serving = routes.formed(draft.seen, backbone)
    cut: Cut | Refusal | None = None
    if not serving and (want.pressing or want.floor or kept):
        cut = _place(draft.seen, want, banned)
    planned: Stages = cut.stages if isinstance(cut, Cut) else ()
    living = [pipeline.stages for pipeline in routes.of_backbone(draft.seen, backbone)]
    pipelines = [planned, *living] if planned else living
    filling = fillers(draft.seen, want, planned, pipelines, banned)
    serves = any(routes.reported(pipeline) and servable(draft.seen, backbone, pipeline.stages) for pipeline in serving)
    staying = filling.union(kept, _failed(draft.seen, backbone))
    # Until something serves, what is held may be all that the next plan has to build on.
    draft.add(routes.drops(draft.seen, backbone, (staying if serves else draft.seen.places.keys()) - banned))
    draft.add(holds(draft.seen, backbone, pipelines, filling))
    _form(draft, want, cut, kept, banned)
    if isinstance(cut, Refusal):
        return Lack(refusal=cut)
    return Lack(more=_more(draft.seen, want, filling, banned) if serves else 0)


def _more(seen: Snapshot, want: Want, filling: Set[str], banned: Set[str]) -> int:
    """How many workers are missing that hold all of it or will. Nobody makes room for what is kept in case."""
    size = len(seen.backbones[want.backbone].model.units)
    told = {w.name for w in seen.holders[want.backbone] if len(held_units(w.holdings[want.backbone])) == size}
    wanted = want.desired if want.pressing else want.minimum
    return max(wanted - len((told | filling) - banned), 0)


def _failed(seen: Snapshot, backbone: str) -> frozenset[str]:
    """Workers where loading went wrong. Their report of it is what keeps them from being tried over and over."""
    return frozenset(w.name for w in seen.holders.get(backbone, ()) if w.holdings[backbone].error)


def _clear(draft: _Draft, want: Want) -> None:
    """To zero: no new requests, running ones end, then everything leaves."""
    draft.add(routes.drains(draft.seen, want, (), draft.seen.places.keys()))
    living = [pipeline.stages for pipeline in routes.of_backbone(draft.seen, want.backbone)]
    draft.add(holds(draft.seen, want.backbone, living, frozenset()))
    draft.add(routes.drops(draft.seen, want.backbone, frozenset()))


def _place(seen: Snapshot, want: Want, banned: Set[str], given: Mapping[str, int] | None = None) -> Cut | Refusal:
    workers = candidates(seen, want.backbone, banned)
    if not workers:
        if candidates(seen, want.backbone, want.outside(seen)):
            return Refusal(Reason.INSUFFICIENT_GPUS, "every worker that could hold the model makes room for others")
        return nobody(seen, want.backbone)
    known = seen.backbones[want.backbone]
    return best_cut(
        known.model,
        known.costs,
        workers,
        max_stages=want.max_stages,
        prompt_tokens=want.prompt_tokens,
        kv_tokens=min_tokens(want.max_model_len),
        room=given or rooms(seen, want.backbone, banned),
        owed=behind(seen, want.backbone, banned),
        answers=seen.cuts,
    )


def _form(draft: _Draft, want: Want, cut: Cut | Refusal | None, kept: Sequence[str], banned: Set[str]) -> None:
    """Forms what was just planned; else every worker that holds all, alone; else fewer stages than the best has."""
    if isinstance(cut, Cut):
        _try(draft, want, cut.stages, cut)
        return
    serving = routes.formed(draft.seen, want.backbone)
    for name in kept:
        if serving and not any([stage.worker for stage in pipeline.stages] == [name] for pipeline in serving):
            _try(draft, want, (whole(draft.seen.backbones[want.backbone].model, name),))
    if serving and not kept:
        shorter = routes.cover(draft.seen, want, banned)
        if shorter is not None and len(shorter) < len(serving[0].stages):
            _try(draft, want, shorter)


def _try(draft: _Draft, want: Want, stages: Stages, cut: Cut | None = None) -> None:
    step = routes.form(draft.seen, want, stages, cut.prediction if cut else None)
    draft.add([step] if step else [])
