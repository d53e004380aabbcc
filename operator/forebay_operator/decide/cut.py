"""Where to cut the units, for these links: the stages that give the first token soonest, and what that predicts.

Worker k loads the units of its segment in the order of need, at its own rate; unit u is computed when unit u-1 is done
(and its output has hopped over, where the stage changes) and u has landed:

    t(u) = max(t(u-1) + hop?, landed(u)) + compute(u)

A link that others were promised first brings their units before its first one of these: landed(u) counts from there.

Finishing is monotone in the arrival, so the best finish of k stages that cover the units up to j needs only the best
finishes of k-1 stages: f(k, j) = min over i of F_k(f(k-1, i-1) + hop, i..j). That is exact for a given order of
workers; see `sites.orders` for which orders are tried. Unit 0 has bytes and no time: its rows are read by range as they
are needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate, pairwise
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from forebay_api.conditions import Reason
from forebay_api.model import Model, Stage, UnitKind
from forebay_api.quantities import format_size
from forebay_operator.decide.seen import NOTHING, Answer, Costs, WorkerSeen
from forebay_operator.decide.sites import Selection, Site, effective_rates, orders
from forebay_operator.decide.steps import Prediction

NOTHING_OWED: Mapping[str, int] = MappingProxyType({})

# A further stage must pay: the fewest stages whose first token comes within this share of the best are taken.
MARGIN = 0.03

Segments = tuple[tuple[int, int, int], ...]
"""See `Answer`."""


@dataclass(frozen=True, slots=True)
class Cut:
    stages: tuple[Stage, ...]
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be placed: a condition's reason, and one sentence that names what is short."""

    reason: Reason
    message: str


def seconds_of(samples: Sequence[tuple[int, float]], tokens: int) -> float:
    """Interpolated between the samples; the smallest is a floor, beyond the largest its slope goes on. 0 without
    any."""
    if not samples:
        return 0.0
    if tokens <= samples[0][0]:
        return samples[0][1]
    if len(samples) == 1:
        return samples[0][1] * tokens / samples[0][0]
    within = (pair for pair in pairwise(samples) if tokens <= pair[1][0])
    (low, at_low), (high, at_high) = next(within, samples[-2:])
    return max(at_low + (at_high - at_low) * (tokens - low) / (high - low), 0.0)


def compute_seconds(model: Model, costs: Costs, prompt_tokens: int) -> tuple[float, ...]:
    """Of each unit, for a prompt: every layer sees all of it, the head its last token, the embedding costs nothing."""
    of_kind = {
        UnitKind.EMBEDDING: 0.0,
        UnitKind.LAYER: seconds_of(costs.layer, prompt_tokens),
        UnitKind.HEAD: seconds_of(costs.head, 1),
    }
    return tuple([of_kind[unit.kind] for unit in model.units])


def predict(
    model: Model,
    costs: Costs,
    workers: Mapping[str, WorkerSeen],
    stages: Sequence[Stage],
    prompt_tokens: int,
    owed: Mapping[str, int] = NOTHING_OWED,
) -> Prediction:
    """What ``stages`` would give, from what their workers hold now. ``owed``: bytes that a worker's link brings for
    others first."""
    compute = compute_seconds(model, costs, prompt_tokens)
    rates = effective_rates([workers[stage.worker].link for stage in stages])
    done = servable = 0.0
    begins: list[float] = []
    before: WorkerSeen | None = None
    for stage, rate in zip(stages, rates, strict=True):
        worker = workers[stage.worker]
        done += hop_seconds(costs, before.node, worker.node) if before else 0.0
        before = worker
        resident = worker.holdings.get(model.backbone, NOTHING).resident
        missing = [unit for unit in stage.units if unit not in resident]
        queued = owed.get(worker.name, 0) if missing else 0
        if any(missing):
            begins.append(queued / rate)
        for unit in stage.units:
            if unit and unit in missing:
                queued += model.units[unit].link_bytes
                done = max(done, queued / rate)
            done += compute[unit]
        queued += model.units[0].link_bytes if 0 in missing else 0
        servable = max(servable, queued / rate)
    begin = min(begins, default=0.0)
    return Prediction(max(servable - begin, 0.0), done - begin, prompt_tokens, begin)


def hop_seconds(costs: Costs, node: str, following: str) -> float:
    return costs.hop if node == following else costs.far_hop


def equal_cut(model: Model, workers: Sequence[str]) -> tuple[Stage, ...]:
    """The units in as many segments as there are workers, equal in bytes as nearly as units allow: for comparison."""
    last = len(model.units) - 1
    ends: list[int] = []
    loaded = unit = 0
    for place in range(1, len(workers)):
        first = unit
        while unit <= last - (len(workers) - place) and (
            unit == first or 2 * loaded + model.units[unit].link_bytes <= 2 * model.link_bytes * place / len(workers)
        ):
            loaded += model.units[unit].link_bytes
            unit += 1
        ends.append(unit - 1)
    firsts = [0, *(end + 1 for end in ends)]
    return tuple(Stage(*stage) for stage in zip(workers, firsts, [*ends, last], strict=True))


def best_cut(
    model: Model,
    costs: Costs,
    candidates: Sequence[WorkerSeen],
    *,
    max_stages: int,
    prompt_tokens: int,
    kv_tokens: int = 0,
    room: Mapping[str, int] | None = None,
    owed: Mapping[str, int] = NOTHING_OWED,
    answers: dict[Hashable, Answer] | None = None,
) -> Cut | Refusal:
    """The fewest stages whose first token comes within `MARGIN` of the best.

    ``candidates`` come preferred first, which decides between equals. ``room``: bytes each may give to units it lacks
    and to KV of ``kv_tokens`` (default: its memory less what it holds of this model). ``owed``: as in `predict`. A
    segment that does not fit with its KV is not considered; a `Refusal` says what is short when none fits.
    ``answers``: of searches before, see `Snapshot.cuts`: many models differ in nothing but their weights."""
    needed = model.resident_bytes + _kv_bytes(model, kv_tokens)
    free = {worker.name: worker.memory - _held(model, worker) for worker in candidates} if room is None else room
    rooms = [min(free[worker.name], needed) for worker in candidates]
    if _hopeless(model, candidates, rooms, max_stages, needed):
        return _refusal(model, candidates, rooms, max_stages, kv_tokens)
    shape = _Shape.of(model, costs, prompt_tokens, kv_tokens)
    selection = Selection(model.backbone, candidates, rooms, owed, min(max_stages, len(candidates), len(model.units)))
    answers = {} if answers is None else answers
    if (asked := (shape, selection.nature)) not in answers:
        segments, named = _search(shape, selection), {worker.name: worker for worker in candidates}
        predicted = predict(model, costs, named, _stages(selection, segments), prompt_tokens, owed)
        answers[asked] = Answer(segments, predicted)
    answer = answers[asked]
    if not answer.segments:
        return _refusal(model, candidates, rooms, max_stages, kv_tokens)
    return Cut(_stages(selection, answer.segments), answer.prediction)


def _stages(selection: Selection, segments: Segments) -> tuple[Stage, ...]:
    return tuple([Stage(selection.all[place].worker, first, last) for place, first, last in segments])


def _search(shape: _Shape, selection: Selection) -> Segments:
    """Empty when nothing fits."""
    table = _Table(shape)
    best: list[tuple[float, list[tuple[Site, int, int]]]] = []
    for count in range(1, selection.most + 1):
        found = [table.solve(order) for order in orders(selection, count)]
        fitting = [entry for entry in found if entry is not None]
        if fitting:
            best.append(min(fitting, key=lambda entry: entry[0]))
    soonest = min([finish for finish, _ in best], default=inf)
    segments = next((segments for finish, segments in best if finish <= soonest * (1 + MARGIN)), [])
    places = {site: place for place, site in enumerate(selection.all)}
    return tuple([(places[site], first, last) for site, first, last in segments])


class _Shape(NamedTuple):
    """All that a search knows of a model. By unit: bytes that cross the link, bytes of KV, bytes of both on the device,
    and seconds of compute for the prompt; then seconds of a hop within a node and to another one."""

    link: tuple[int, ...]
    kv: tuple[int, ...]
    taken: tuple[int, ...]
    compute: tuple[float, ...]
    hop: float
    far_hop: float
    prompt_tokens: int

    @classmethod
    def of(cls, model: Model, costs: Costs, prompt_tokens: int, kv_tokens: int) -> _Shape:
        kv_bytes = kv_tokens * model.kv_bytes_per_token_per_layer
        kv = [kv_bytes if unit.kind is UnitKind.LAYER else 0 for unit in model.units]
        return cls(
            link=tuple([unit.link_bytes for unit in model.units]),
            kv=tuple(kv),
            taken=tuple([bytes_ + unit.resident_bytes for bytes_, unit in zip(kv, model.units, strict=True)]),
            compute=compute_seconds(model, costs, prompt_tokens),
            hop=costs.hop,
            far_hop=costs.far_hop,
            prompt_tokens=prompt_tokens,
        )


def _kv_bytes(model: Model, tokens: int) -> int:
    return model.layers * tokens * model.kv_bytes_per_token_per_layer


@dataclass(frozen=True, slots=True)
class _Front:
    """Per unit j: the best finish of the stages so far that end with j, their latest landing, and where the last
    begins."""

    finish: list[float]
    landed: list[float]
    first: list[int]


class _Table:
    """The dynamic program over (stage, unit), remembered by prefix of the order: orders share most of their stages.

    What does not come sooner than the best found so far is not followed: fewer stages are asked first, and win ties."""

    def __init__(self, shape: _Shape) -> None:
        self._shape = shape
        self._units = len(shape.link)
        self._soonest = inf
        self._fronts: dict[tuple[tuple[Site, float], ...], _Front] = {}

    def solve(self, order: Sequence[Site]) -> tuple[float, list[tuple[Site, int, int]]] | None:
        """Seconds to the first token, and the first and the last unit of each of these sites in this order; None when
        it does not fit or is no sooner than any solved before."""
        rates = effective_rates([site.link for site in order])
        chain = tuple(zip(order, rates, strict=True))
        unit = self._units - 1
        finish = self._front(chain).finish[unit]
        if finish >= self._soonest:
            return None
        self._soonest = finish
        segments: list[tuple[Site, int, int]] = []
        for length in range(len(chain), 0, -1):
            first = self._fronts[chain[:length]].first[unit]
            segments.append((order[length - 1], first, unit))
            unit = first - 1
        return finish, segments[::-1]

    def _front(self, chain: tuple[tuple[Site, float], ...]) -> _Front:
        if chain not in self._fronts:
            site, rate = chain[-1]
            if len(chain) == 1:
                arrivals, landed = [0.0] + [inf] * (self._units - 1), [0.0] * self._units
            else:
                before = self._front(chain[:-1])
                hop = self._shape.hop if chain[-2][0].node == site.node else self._shape.far_hop
                arrivals = [inf, *(finish + hop for finish in before.finish[:-1])]
                landed = [0.0, *before.landed[:-1]]
            self._fronts[chain] = self._extend(arrivals, landed, site, rate)
        return self._fronts[chain]

    def _extend(self, arrivals: Sequence[float], landed: Sequence[float], site: Site, rate: float) -> _Front:
        """The front after one more stage on ``site``, for every place where that may begin and end."""
        count, compute, soonest = self._units, self._shape.compute, self._soonest
        finish, latest_of, first = [inf] * count, [inf] * count, [0] * count
        seconds, taken = [size / rate for size in self._shape.link], self._shape.taken
        if held := site.resident:
            seconds = [0.0 if unit in held else each for unit, each in enumerate(seconds)]
            taken = tuple([self._shape.kv[unit] if unit in held else each for unit, each in enumerate(taken)])
        alone, sizes, loads = seconds, list(accumulate(taken, initial=0)), all(seconds[1:])
        for begin in reversed(range(count)):
            done = arrivals[begin]
            if done == inf:
                continue
            end = bisect_right(sizes, sizes[begin] + site.room) - 1  # the first that has no room
            queued, before = 0.0, landed[begin]
            if site.owed:
                seconds = _behind(site.owed / rate, alone, begin, held)
            # The embedding is loaded after the layers: it is not waited for, but it must land.
            aside = seconds[0] if begin == 0 else 0.0
            for unit in range(begin, end):  # most of what a search costs: comparisons instead of calls
                if unit:
                    queued += seconds[unit]
                    done = (queued if queued > done else done) + compute[unit]
                    if done >= soonest:
                        break
                if done > finish[unit]:
                    if loads:
                        break  # who begins later has less to load: it stays ahead
                    continue
                latest = queued + aside
                if latest < before:
                    latest = before
                if done < finish[unit] or latest <= latest_of[unit]:
                    finish[unit], latest_of[unit], first[unit] = done, latest, begin
        return _Front(finish, latest_of, first)


def _behind(owed: float, seconds: Sequence[float], begin: int, held: Set[int]) -> list[float]:
    """``seconds``, with the first unit to be loaded, from ``begin`` on, so much later. Unit 0 is not waited for."""
    delayed = list(seconds)
    for unit in range(max(begin, 1), len(seconds)):
        if unit not in held:
            delayed[unit] += owed
            break
    return delayed


def _held(model: Model, worker: WorkerSeen) -> int:
    """Bytes of ``model`` that are resident on ``worker``."""
    held = worker.holdings.get(model.backbone)
    return sum([model.units[unit].resident_bytes for unit in held.resident]) if held else 0


def _hopeless(model: Model, workers: Sequence[WorkerSeen], rooms: Sequence[int], max_stages: int, needed: int) -> bool:
    """Whether the roomiest workers together have less than all units and their KV take: then no cut is looked for."""
    if max(rooms, default=0) >= needed:  # one is enough
        return False
    able = [max(room, 0) + _held(model, worker) for worker, room in zip(workers, rooms, strict=True)]
    return sum(nlargest(max_stages, able)) < needed


def _refusal(
    model: Model, workers: Sequence[WorkerSeen], rooms: Sequence[int], max_stages: int, kv_tokens: int
) -> Refusal:
    if not workers:
        return Refusal(Reason.NO_WORKER, "no worker is ready to hold the model")
    needed = f"{format_size(model.resident_bytes)} of units and {format_size(_kv_bytes(model, kv_tokens))} of KV"
    sizes = {room: format_size(max(room, 0)) for room in set(rooms)}  # many have the same
    shown = ", ".join([f"{worker.name} {sizes[room]}" for worker, room in zip(workers, rooms, strict=True)])
    return Refusal(
        Reason.INSUFFICIENT_GPUS,
        f"device memory is short: {needed} do not fit in at most {max_stages} stages; room: {shown}",
    )
