"""From pools and nodes to the pods and claims that should be, and the steps towards them.

A pool has ``gpusPerNode`` pods on every node that it selects, never more than the node has devices to give. A pod that
is gone comes back; one that is too many, or of an old template, is deleted, and its worker hands over what it has. How
many may be down at a time, over the whole pool:

    maxUnavailable ≥ told to end + expected and not serving + deleted now

A pod that does nothing anyway goes first and is not spared, and the next waits for what follows it. (One of an old
template that no node takes holds up nobody, and goes last.) So does one that
has pipelines and was not ready for as long as handing them over may take. One that is ready and never attached goes
first too, but is charged: it may serve on out of our reach. One on a node that
does not answer is neither counted nor touched: it may run on, and is adopted when the node is back. A node that is gone
takes its pods along (Kubernetes removes them, all but those that never came to it, which we do), and so does a pool:
pods and claims are owned by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from forebay_operator.decide import pool_deaths, pool_nodes
from forebay_operator.decide.pool_names import claim_name, free_names
from forebay_operator.decide.pool_nodes import NodeState
from forebay_operator.decide.pool_seen import ClaimSeen, NodeSeen, PodSeen, PoolSeen, PoolsSeen
from forebay_operator.decide.pool_worth import Worth


class Why(StrEnum):
    """Why a pod is deleted."""

    DEAD = "Dead"
    STRAY = "Stray"
    SURPLUS = "Surplus"
    OUTDATED = "Outdated"


@dataclass(frozen=True, slots=True)
class CreateClaim:
    pool: str
    node: str
    name: str


@dataclass(frozen=True, slots=True)
class CreatePod:
    pool: str
    node: str
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """With the pod's own grace: its worker has that long to hand over. One that never started ends at once."""

    pool: str
    name: str
    uid: str
    why: Why


PoolStep = CreateClaim | CreatePod | DeletePod


@dataclass(frozen=True, slots=True)
class NodeCount:
    """``live``: pods that nobody told to end, of which ``ready`` and ``updated`` are counted up to ``desired``."""

    name: str
    state: NodeState
    desired: int
    ready: int
    updated: int
    live: int


@dataclass(frozen=True, slots=True)
class PoolCount:
    """``desired``, ``ready`` and ``updated`` workers; ``blocked``: claims that are another's, or are being deleted."""

    nodes: tuple[NodeCount, ...] = ()
    blocked: tuple[str, ...] = ()

    @property
    def desired(self) -> int:
        return sum(node.desired for node in self.nodes)

    @property
    def ready(self) -> int:
        return sum(node.ready for node in self.nodes)

    @property
    def updated(self) -> int:
        return sum(node.updated for node in self.nodes)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """No steps: nothing to do. ``wake_at``: unix seconds when time alone may change the answer."""

    steps: tuple[PoolStep, ...]
    counts: Mapping[str, PoolCount]
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Site:
    """One pool on one node. ``room``: devices there that no pod has; ``coming``: pods to be created now."""

    pool: PoolSeen
    node: NodeSeen
    state: NodeState
    claim: str
    usable: bool
    claimed: bool
    room: int
    live: tuple[PodSeen, ...]
    leaving: tuple[PodSeen, ...]
    dead: tuple[PodSeen, ...]

    @property
    def keep(self) -> int:
        return 0 if self.state is NodeState.FOREIGN else self.pool.gpus_per_node

    @property
    def open(self) -> bool:
        return self.state is NodeState.OPEN and self.usable

    @property
    def everybody(self) -> int:
        return len(self.live) + len(self.leaving) + len(self.dead)

    @property
    def coming(self) -> int:
        return max(0, min(self.keep - self.everybody, self.room)) if self.open else 0


@dataclass(slots=True)
class _Draft:
    """The steps so far, and what they take: names and devices."""

    names: set[str]
    devices: Counter[tuple[str, str]]
    steps: list[PoolStep] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


def next_pool_steps(seen: PoolsSeen, now: float) -> PoolPlan:
    """What to do now, in this order. Each step may be carried out twice without harm."""
    draft = _Draft(
        names={pod.name for pod in seen.pods},
        devices=Counter((pod.node, name) for pod in seen.pods if not pod.dead for name in pod.resources),
    )
    counts = {}
    worth = Worth.of(seen, now)
    draft.wakes += worth.wakes
    for pool in sorted(seen.pools, key=lambda pool: pool.name):
        strays = _strays(seen, pool)
        draft.steps += [DeletePod(pool.name, pod.name, pod.uid, Why.STRAY) for pod in strays]
        sites = _sites(seen, pool, draft, strays)
        for site in sites:
            _bury(draft, site, seen, now)
            _create(draft, site)
        _delete(draft, pool, sites, worth)
        counts[pool.name] = PoolCount(
            nodes=tuple(_count(site) for site in sites if site.everybody or site.state is not NodeState.FOREIGN),
            blocked=tuple(site.claim for site in sites if site.keep and not site.usable),
        )
    return PoolPlan(tuple(draft.steps), counts, min(draft.wakes, default=None))


def _strays(seen: PoolsSeen, pool: PoolSeen) -> list[PodSeen]:
    """Those that wait for a node which is gone or takes no new pods. No drain evicts them, and no garbage collector
    finds a node that they were on; in the count they would be missing for as long."""
    states = {node.name: pool_nodes.state(pool, node) for node in seen.nodes}
    waiting = [pod for pod in seen.pods if pod.owner == pool.uid and not (pod.bound or pod.dead or pod.leaving)]
    return [pod for pod in waiting if states.get(pod.node) in (None, NodeState.CORDONED, NodeState.TAINTED)]


def _sites(seen: PoolsSeen, pool: PoolSeen, draft: _Draft, strays: Sequence[PodSeen]) -> list[_Site]:
    claims = {claim.name: claim for claim in seen.claims}
    by_node: dict[str, list[PodSeen]] = {}
    for pod in seen.pods:
        if pod.owner == pool.uid and pod not in strays:
            by_node.setdefault(pod.node, []).append(pod)
    nodes = sorted(seen.nodes, key=lambda node: node.name)
    return [_site(pool, node, by_node.get(node.name, []), claims, draft.devices) for node in nodes]


def _site(
    pool: PoolSeen,
    node: NodeSeen,
    here: Sequence[PodSeen],
    claims: Mapping[str, ClaimSeen],
    devices: Mapping[tuple[str, str], int],
) -> _Site:
    name = claim_name(pool.name, node.name)
    claim = claims.get(name)
    usable = claim is None or (not claim.leaving and claim.owner in ("", pool.uid))
    return _Site(
        pool=pool,
        node=node,
        state=pool_nodes.state(pool, node),
        claim=name,
        usable=usable or not pool.cache,
        claimed=claim is not None or not pool.cache,
        room=node.allocatable.get(pool.resource, 0) - devices.get((node.name, pool.resource), 0),
        live=tuple(pod for pod in here if not pod.dead and not pod.leaving),
        leaving=tuple(pod for pod in here if pod.leaving),
        dead=tuple(pod for pod in here if pod.dead and not pod.leaving),
    )


def _bury(draft: _Draft, site: _Site, seen: PoolsSeen, now: float) -> None:
    """The dead keep their place, so that a person can look and the next one does not die as fast."""
    for pod in site.dead:
        over = pool_deaths.over_at(seen.deaths.get(pod.name))
        if over > now:
            draft.wakes.append(over)
        else:
            draft.steps.append(DeletePod(site.pool.name, pod.name, pod.uid, Why.DEAD))


def _create(draft: _Draft, site: _Site) -> None:
    if site.coming and not site.claimed:
        draft.steps.append(CreateClaim(site.pool.name, site.node.name, site.claim))
    for index, name in free_names(site.pool.name, site.node.name, draft.names, site.coming):
        draft.steps.append(CreatePod(site.pool.name, site.node.name, index, name))
        draft.names.add(name)
    draft.devices[site.node.name, site.pool.resource] += site.coming


def _delete(draft: _Draft, pool: PoolSeen, sites: Sequence[_Site], worth: Worth) -> None:
    """Those too many first, then those of an old template, each the least loaded first."""
    answering = [site for site in sites if site.node.ready]
    surplus = [pod for site in answering for pod in _surplus(site, worth)]
    outdated = [pod for site in answering for pod in _outdated(site) if pod not in surplus]
    displaced = [pod for site in answering for pod in site.live if _displaced(pod, pool)]
    going = {pod: Why.SURPLUS for pod in surplus if pod.name in worth.useless}
    # The displaced last: those of the new template that take their places may wait there as well, and look as if it
    # were the template's fault.
    placed = [pod for pod in outdated if pod not in displaced]
    going |= {pod: Why.OUTDATED for pod in placed or outdated if pod.name in worth.useless}
    live = [pod for site in answering for pod in site.live if pod not in going]
    busy = sum(len(site.leaving) + site.coming for site in answering)
    lagging = [pod for pod in live if not (pod.sick or worth.serves(pod) or pod in displaced)]
    # While one may yet attach nobody knows who is the least loaded: until then none that serves goes.
    serving = [] if any(worth.unknown(pod) for pod in live) else [pod for pod in live if worth.serves(pod)]
    stuck = [pod for pod in lagging if not pod.ready and (pod.restarts or pod.trouble)]

    # What cannot run stops an update, which may be why it cannot, but no shrinking, which may be the cure.
    down = busy + len(going) + len(lagging) - len(stuck)
    # Those that never attached count as down, but may serve on out of our reach: their going is charged all the same.
    silent = sum(pod.name in worth.silent for pod in (*surplus, *outdated))
    for why, pods in ((Why.SURPLUS, surplus), (Why.OUTDATED, outdated)):
        if why is Why.OUTDATED:
            down += len(stuck) + sum(len(site.dead) for site in answering)
        quiet = worth.cheapest(pod for pod in pods if pod.name in worth.silent)
        quiet = quiet[: max(0, pool.max_unavailable - down + silent)]
        silent -= len(quiet)
        spared = worth.cheapest(pod for pod in pods if pod in serving)[: max(0, pool.max_unavailable - down)]
        down += len(spared)
        going |= dict.fromkeys([*quiet, *spared], why)
    draft.steps += [DeletePod(pool.name, pod.name, pod.uid, why) for pod, why in going.items()]


def _displaced(pod: PodSeen, pool: PoolSeen) -> bool:
    """It found its place taken, and not for the sake of the template that is now coming."""
    return not pod.bound and pod.trouble is not None and pod.template != pool.template


def _surplus(site: _Site, worth: Worth) -> list[PodSeen]:
    excess = max(0, len(site.live) - site.keep)
    return worth.cheapest(site.live)[:excess]


def _outdated(site: _Site) -> list[PodSeen]:
    """Those that another can follow. A node that has fewer devices now than pods would not take one back, unless it is
    the one on the device that is missing that goes."""
    if not site.open:
        return []
    return [pod for pod in site.live if pod.template != site.pool.template and (site.room >= 0 or pod.sick)]


def _count(site: _Site) -> NodeCount:
    held = len(site.live) if site.state is not NodeState.OPEN else site.everybody + max(0, site.room)
    desired = min(site.keep, held)
    return NodeCount(
        name=site.node.name,
        state=site.state,
        desired=desired,
        ready=min(desired, sum(pod.ready for pod in site.live)),
        updated=min(desired, sum(pod.template == site.pool.template for pod in site.live)),
        live=len(site.live),
    )
