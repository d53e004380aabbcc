"""Where to cut the units, for these links: the stages that give the first token soonest, and what that predicts.

Worker k loads the units of its segment in the order of need, at its own rate; unit u is computed when unit u-1 is done
(and its output has hopped over, where the stage changes) and u has landed:

    t(u) = max(t(u-1) + hop?, landed(u)) + compute(u)

A link that others were promised first brings their units before its first one of these: landed(u) counts from there.

Finishing is monotone in the arrival, so the best finish of k stages that cover the units up to j needs only the best
finishes of k-1 stages: f(k, j) = min over i of F_k(f(k-1, i-1) + hop, i..j). That is exact for a given order of
workers; see `orders` for which orders are tried. Unit 0 has bytes and no time: its rows are read by range as they are
needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import nlargest, nsmallest
from itertools import accumulate, pairwise, permutations
from math import inf
from types import MappingProxyType

from forebay_api.conditions import Reason
from forebay_api.model import Model, Stage, UnitKind
from forebay_api.quantities import format_size
from forebay_operator.decide.links import share
from forebay_operator.decide.seen import NOTHING, Costs, Link, WorkerSeen
from forebay_operator.decide.steps import Prediction

NOTHING_OWED: Mapping[str, int] = MappingProxyType({})

# A further stage must pay: the fewest stages whose first token comes within this share of the best are taken.
MARGIN = 0.03
# Up to here every order of every selection of workers is tried.
EXHAUSTIVE = 4


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
    return tuple(of_kind[unit.kind] for unit in model.units)


def effective_rates(links: Sequence[Link]) -> tuple[float, ...]:
    """Bytes per second of each link while all of them load. A rate of 0 is unknown, and taken for no limit."""
    sharing = Counter([link.bucket for link in links])
    return tuple(share(link, sharing[link.bucket]) for link in links)


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
) -> Cut | Refusal:
    """The fewest stages whose first token comes within `MARGIN` of the best.

    ``candidates`` come preferred first, which decides between equals. ``room``: bytes each may give to units it lacks
    and to KV of ``kv_tokens`` (default: its memory less what it holds of this model). ``owed``: as in `predict`. A
    segment that does not fit with its KV is not considered; a `Refusal` says what is short when none fits."""
    sites = _sites(model, candidates, kv_tokens, room, owed)
    table = _Table(model, costs, prompt_tokens, kv_tokens)
    best: list[tuple[float, tuple[Stage, ...]]] = []
    if _hopeless(model, sites, max_stages, kv_tokens):
        return _refusal(model, sites, max_stages, kv_tokens)
    most = min(max_stages, len(sites), len(model.units))
    grouped = _Sites(sites, most)
    for count in range(1, most + 1):
        found = [table.solve(order) for order in orders(grouped, count)]
        fitting = [entry for entry in found if entry is not None]
        if fitting:
            best.append(min(fitting, key=lambda entry: entry[0]))
    if not best:
        return _refusal(model, sites, max_stages, kv_tokens)
    soonest = min(finish for finish, _ in best)
    stages = next(stages for finish, stages in best if finish <= soonest * (1 + MARGIN))
    named = {worker.name: worker for worker in candidates}
    return Cut(stages, predict(model, costs, named, stages, prompt_tokens, owed))


Kind = tuple[str, Link, frozenset[int], int, int]


@dataclass(slots=True, eq=False)  # not frozen: there are many, and a frozen one takes thrice as long to make
class _Site:
    """A candidate as the search sees it, one object for each. ``room`` is capped at what the whole model needs, so that
    ampleness is equal; ``held``: bytes of what is resident. ``rate``: of its link, while all of them load. ``owed``:
    bytes that come before."""

    worker: str
    node: str
    link: Link
    resident: frozenset[int]
    held: int
    room: int
    rate: float
    owed: int

    @property
    def kind(self) -> Kind:
        """Workers of one kind are interchangeable."""
        return self.node, self.link, self.resident, self.room, self.owed


class _Sites:
    """All candidates, the preferred first, by node, and the fastest first; as many of each as there may be stages."""

    def __init__(self, sites: Sequence[_Site], most: int) -> None:
        self.all = sites
        self.fastest = nsmallest(most, sites, key=lambda site: -site.rate)
        self.nodes: dict[str, list[_Site]] = {}
        for site in sites:
            self.nodes.setdefault(site.node, []).append(site)
        self._kinds: dict[Kind, int] = {}
        self._numbers: dict[_Site, int] = {}

    def kind(self, site: _Site) -> int:
        """A number for each kind: they are compared often."""
        if site not in self._numbers:
            self._numbers[site] = self._kinds.setdefault(site.kind, len(self._kinds))
        return self._numbers[site]


def _sites(
    model: Model,
    candidates: Sequence[WorkerSeen],
    kv_tokens: int,
    room: Mapping[str, int] | None,
    owed: Mapping[str, int],
) -> tuple[_Site, ...]:
    most = model.resident_bytes + _kv_bytes(model, kv_tokens)
    found = []
    for worker, rate in zip(candidates, effective_rates([worker.link for worker in candidates]), strict=True):
        resident = worker.holdings.get(model.backbone, NOTHING).resident
        held = sum(model.units[unit].resident_bytes for unit in resident) if resident else 0
        free = min(worker.memory - held if room is None else room[worker.name], most)
        behind = owed.get(worker.name, 0)
        found.append(_Site(worker.name, worker.node, worker.link, resident, held, free, rate, behind))
    return tuple(found)


def _kv_bytes(model: Model, tokens: int) -> int:
    return model.layers * tokens * model.kv_bytes_per_token_per_layer


def orders(sites: _Sites, count: int) -> Iterator[tuple[_Site, ...]]:
    """Selections of ``count`` sites in an order, one of each kind, the preferred first. Up to `EXHAUSTIVE` sites: all.

    Beyond: the ``count`` most preferred, of all and of each node, and the ``count`` fastest, each in the given order,
    slowest first (a later stage has more time to load), fastest first, and by the first unit that is held (survivors
    keep their places)."""
    tried: set[tuple[int, ...]] = set()
    ordered = permutations(sites.all, count) if len(sites.all) <= EXHAUSTIVE else _likely(sites, count)
    # The nearest first, since of equals the first is taken: a hop that hides behind loading is felt at every token.
    for order in sorted(dict.fromkeys(ordered), key=_far_hops):
        kinds = tuple([sites.kind(site) for site in order])
        if kinds not in tried:
            tried.add(kinds)
            yield order


def _far_hops(order: Sequence[_Site]) -> int:
    return sum(site.node != following.node for site, following in pairwise(order))


def _likely(sites: _Sites, count: int) -> Iterator[tuple[_Site, ...]]:
    near = [chosen[:count] for chosen in sites.nodes.values() if len(chosen) >= count]
    for chosen in (sites.all[:count], *near, sites.fastest[:count]):
        yield tuple(chosen)
        yield tuple(sorted(chosen, key=lambda site: site.rate))
        yield tuple(sorted(chosen, key=lambda site: -site.rate))
        yield tuple(sorted(chosen, key=lambda site: min(site.resident, default=inf)))


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

    def __init__(self, model: Model, costs: Costs, prompt_tokens: int, kv_tokens: int) -> None:
        self._units = model.units
        self._compute = compute_seconds(model, costs, prompt_tokens)
        self._costs = costs
        self._kv = [
            kv_tokens * model.kv_bytes_per_token_per_layer if unit.kind is UnitKind.LAYER else 0 for unit in model.units
        ]
        self._link = [unit.link_bytes for unit in model.units]
        self._taken = [kv + unit.resident_bytes for kv, unit in zip(self._kv, model.units, strict=True)]
        self._soonest = inf
        self._fronts: dict[tuple[tuple[_Site, float], ...], _Front] = {}

    def solve(self, order: Sequence[_Site]) -> tuple[float, tuple[Stage, ...]] | None:
        """Seconds to the first token and the stages, on these sites in this order; None when it does not fit or is no
        sooner than any solved before."""
        rates = effective_rates([site.link for site in order])
        chain = tuple(zip(order, rates, strict=True))
        unit = len(self._units) - 1
        finish = self._front(chain).finish[unit]
        if finish >= self._soonest:
            return None
        self._soonest = finish
        stages: list[Stage] = []
        for length in range(len(chain), 0, -1):
            first = self._fronts[chain[:length]].first[unit]
            stages.append(Stage(order[length - 1].worker, first, unit))
            unit = first - 1
        return finish, tuple(reversed(stages))

    def _front(self, chain: tuple[tuple[_Site, float], ...]) -> _Front:
        if chain not in self._fronts:
            site, rate = chain[-1]
            if len(chain) == 1:
                arrivals, landed = [0.0] + [inf] * (len(self._units) - 1), [0.0] * len(self._units)
            else:
                before = self._front(chain[:-1])
                hop = hop_seconds(self._costs, chain[-2][0].node, site.node)
                arrivals = [inf, *(finish + hop for finish in before.finish[:-1])]
                landed = [0.0, *before.landed[:-1]]
            self._fronts[chain] = self._extend(arrivals, landed, site, rate)
        return self._fronts[chain]

    def _extend(self, arrivals: Sequence[float], landed: Sequence[float], site: _Site, rate: float) -> _Front:
        """The front after one more stage on ``site``, for every place where that may begin and end."""
        count, compute, soonest = len(self._units), self._compute, self._soonest
        finish, latest_of, first = [inf] * count, [inf] * count, [0] * count
        seconds, taken = [size / rate for size in self._link], self._taken
        if held := site.resident:
            seconds = [0.0 if unit in held else each for unit, each in enumerate(seconds)]
            taken = [self._kv[unit] if unit in held else each for unit, each in enumerate(taken)]
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


def _hopeless(model: Model, sites: Sequence[_Site], max_stages: int, kv_tokens: int) -> bool:
    """Whether the roomiest sites together have less than all units and their KV take: then no cut is looked for."""
    most = nlargest(max_stages, (max(site.room, 0) + site.held for site in sites))
    return sum(most) < model.resident_bytes + _kv_bytes(model, kv_tokens)


def _refusal(model: Model, sites: Sequence[_Site], max_stages: int, kv_tokens: int) -> Refusal:
    if not sites:
        return Refusal(Reason.NO_WORKER, "no worker is ready to hold the model")
    needed = f"{format_size(model.resident_bytes)} of units and {format_size(_kv_bytes(model, kv_tokens))} of KV"
    rooms = ", ".join(f"{site.worker} {format_size(max(site.room, 0))}" for site in sites)
    return Refusal(
        Reason.INSUFFICIENT_GPUS,
        f"device memory is short: {needed} do not fit in at most {max_stages} stages; room: {rooms}",
    )
