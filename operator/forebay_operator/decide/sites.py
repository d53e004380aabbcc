"""Candidates as a search for a cut sees them: what of them is alike, and in which orders they are tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, permutations
from math import inf

from forebay_operator.decide.links import share
from forebay_operator.decide.seen import NOTHING, Link, WorkerSeen

# Up to here every order of every selection of workers is tried.
EXHAUSTIVE = 4


def effective_rates(links: Sequence[Link]) -> tuple[float, ...]:
    """Bytes per second of each link while all of them load. A rate of 0 is unknown, and taken for no limit."""
    sharing = Counter([link.bucket for link in links])
    return tuple([share(link, sharing[link.bucket]) for link in links])


@dataclass(slots=True, eq=False)  # not frozen: a frozen one takes thrice as long to make
class Site:
    """One candidate, one object for each. ``room`` is capped at what the whole model needs, so that ampleness is equal.
    ``rate``: of its link, while all candidates load. ``owed``: bytes that come before."""

    worker: str
    node: str
    link: Link
    resident: frozenset[int]
    room: int
    rate: float
    owed: int


class Selection:
    """Whom of the candidates a search looks at: the preferred first, and where there are many the preferred of each
    node and the fastest too; ``most`` of each. ``rooms``, of each candidate; ``owed``, by worker: see `Site`."""

    def __init__(
        self,
        backbone: str,
        candidates: Sequence[WorkerSeen],
        rooms: Sequence[int],
        owed: Mapping[str, int],
        most: int,
    ) -> None:
        self.most = most
        self.exhaustive = len(candidates) <= EXHAUSTIVE
        rates = effective_rates([worker.link for worker in candidates])
        everyone = range(len(candidates))
        groups: list[Sequence[int]] = [everyone]
        if not self.exhaustive:
            fastest = sorted(everyone, key=rates.__getitem__, reverse=True)
            groups = [group[:most] for group in (everyone, fastest, *_by_node(candidates))]
        sites = {
            place: _site(backbone, candidates[place], rooms[place], rates[place], owed)
            for place in dict.fromkeys(chain(*groups))
        }
        self.all = tuple(sites.values())
        self.groups = [[sites[place] for place in group] for group in groups]
        self._kinds: dict[Hashable, int] = {}
        self._numbers = {site: self._kind(site) for site in self.all}

    def _kind(self, site: Site) -> int:
        """A number for each kind: they are compared often."""
        kind = site.link.rate, site.link.bucket_rate, site.rate, site.resident, site.room, site.owed
        return self._kinds.setdefault(kind, len(self._kinds))

    def alike(self, chosen: Sequence[Site]) -> Hashable:
        """Equal where a search finds the same. Workers of a kind are interchangeable; of nodes and buckets it counts
        which are the same, not which they are."""
        nodes: dict[str, int] = {}
        buckets = {"": 0}
        return tuple(
            [
                (
                    self._numbers[site],
                    nodes.setdefault(site.node, len(nodes)),
                    buckets.setdefault(site.link.bucket, len(buckets)),
                )
                for site in chosen
            ]
        )

    @property
    def nature(self) -> Hashable:
        """All that a search depends on, equal for selections in which it finds the same places of ``all``."""
        places = {site: place for place, site in enumerate(self.all)}
        groups = tuple([tuple([places[site] for site in group]) for group in self.groups])
        return self.most, self.exhaustive, tuple(self._kinds), self.alike(self.all), groups


def _by_node(candidates: Sequence[WorkerSeen]) -> Iterable[list[int]]:
    found: dict[str, list[int]] = {}
    for place, worker in enumerate(candidates):
        found.setdefault(worker.node, []).append(place)
    return found.values()


def _site(backbone: str, worker: WorkerSeen, room: int, rate: float, owed: Mapping[str, int]) -> Site:
    resident = worker.holdings.get(backbone, NOTHING).resident
    return Site(worker.name, worker.node, worker.link, resident, room, rate, owed.get(worker.name, 0))


def orders(selection: Selection, count: int) -> Iterator[tuple[Site, ...]]:
    """``count`` sites in an order, of those that are alike the first. Where there are up to `EXHAUSTIVE`: all orders.

    Beyond: the ``count`` most preferred, of all and of each node, and the ``count`` fastest, each in the given order,
    slowest first (a later stage has more time to load), fastest first, and by the first unit that is held (survivors
    keep their places)."""
    tried: set[Hashable] = set()
    ordered = permutations(selection.all, count) if selection.exhaustive else _likely(selection, count)
    # The nearest first, since of equals the first is taken: a hop that hides behind loading is felt at every token.
    for order in sorted(dict.fromkeys(ordered), key=_far_hops):
        alike = selection.alike(order)
        if alike not in tried:
            tried.add(alike)
            yield order


def _far_hops(order: Sequence[Site]) -> int:
    return sum([site.node != following.node for site, following in pairwise(order)])


def _likely(selection: Selection, count: int) -> Iterator[tuple[Site, ...]]:
    preferred, fastest, *nodes = [group[:count] for group in selection.groups if len(group) >= count]
    for chosen in (preferred, *nodes, fastest):
        yield tuple(chosen)
        yield tuple(sorted(chosen, key=lambda site: site.rate))
        yield tuple(sorted(chosen, key=lambda site: -site.rate))
        yield tuple(sorted(chosen, key=lambda site: min(site.resident, default=inf)))
