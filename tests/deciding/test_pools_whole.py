"""Pools on simulated nodes: never too many, never too few at once, and in the end what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_operator.decide.pool_deaths import deaths
from forebay_operator.decide.pool_seen import ClaimSeen, Death, Load, NodeSeen, PodSeen, PoolSeen, PoolsSeen
from forebay_operator.decide.pools import CreateClaim, CreatePod, DeletePod, next_pool_steps

GPU = "nvidia.com/gpu"
LABELS = {"gpu": "yes"}
NODES = ("a", "b", "c")
GRACE = 60.0
EVENTS = ("template", "size", "ready", "cordon", "labels", "devices", "taken", "pod", "load", "operator")
NOWHERE = ("Unschedulable", "0/3 nodes are available")


def serves(pod: PodSeen, loads: Mapping[str, Load]) -> bool:
    return pod.ready and not pod.sick and pod.name in loads


@dataclass
class World:
    """An API server, kubelets that take one step a tick, and workers that attach once they are ready. ``taken``: nodes
    whose devices somebody else has, in all that the operator can see."""

    pools: dict[str, PoolSeen]
    nodes: dict[str, NodeSeen]
    pods: dict[str, PodSeen] = field(default_factory=dict)
    claims: dict[str, ClaimSeen] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    deaths: dict[str, Death] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    now: float = 10_000.0
    made: int = 0

    def turn(self) -> int:
        """One pass, carried out. Returns how much was to do."""
        self.deaths = deaths(self.deaths, self.pods.values(), self.now)
        seen = PoolsSeen(
            tuple(self.pools.values()),
            tuple(self.nodes.values()),
            tuple(self.pods.values()),
            tuple(self.claims.values()),
            self.loads,
            self.deaths,
        )
        plan = next_pool_steps(seen, self.now)
        self.check_deletions([step for step in plan.steps if isinstance(step, DeletePod)])
        for step in plan.steps:
            pool = self.pools[step.pool]
            match step:
                case CreateClaim():
                    assert step.name not in self.claims
                    self.claims[step.name] = ClaimSeen(step.name, pool.uid)
                case CreatePod():
                    self.create(step, pool)
                case DeletePod():
                    self.delete(step)
        return len(plan.steps)

    def create(self, step: CreatePod, pool: PoolSeen) -> None:
        assert step.name not in self.pods
        node = self.nodes[step.node]
        assert node.ready
        assert not node.cordoned
        self.made += 1
        devices = frozenset((GPU,))
        made = PodSeen(step.name, f"u{self.made}", pool.uid, step.node, devices, pool.template, bound=False)
        self.pods[step.name] = replace(made, created=self.now)
        here = [pod for pod in self.pods.values() if pod.node == step.node]
        assert len([pod for pod in here if pod.owner == pool.uid]) <= pool.gpus_per_node
        assert len([pod for pod in here if not pod.dead]) <= node.allocatable[GPU]

    def delete(self, step: DeletePod) -> None:
        pod = self.pods[step.name]
        assert pod.uid == step.uid
        assert not pod.leaving
        if pod.dead or not pod.bound:
            del self.pods[step.name]
        else:
            self.pods[step.name] = replace(pod, leaving=True, ready=False)
            self.loads.pop(step.name, None)

    def check_deletions(self, steps: list[DeletePod]) -> None:
        for pool in self.pools.values():
            mine = [pod for pod in self.pods.values() if pod.owner == pool.uid and self.nodes[pod.node].ready]
            lost = [step for step in steps if step.pool == pool.name and serves(self.pods[step.name], self.loads)]
            down = sum(pod.leaving for pod in mine) + sum(
                not pod.leaving
                and not pod.dead
                and not serves(pod, self.loads)
                and not pod.sick
                and not pod.restarts
                and not pod.trouble
                for pod in mine
                if pod.name not in {step.name for step in steps}
            )
            assert not lost or len(lost) + down <= pool.max_unavailable
            assert all(self.nodes[self.pods[step.name].node].ready or self.pods[step.name].dead for step in steps)
            staying = [pod for pod in mine if pod.name not in {step.name for step in steps}]
            assert not any(
                self.nodes[pod.node].cordoned for pod in staying if not (pod.bound or pod.dead or pod.leaving)
            )

    def kubelets(self) -> None:
        """What was told to end is gone, what was created runs; nothing happens where a node does not answer."""
        self.now += 1
        for pod in list(self.pods.values()):
            if not self.nodes[pod.node].ready:
                continue
            if pod.leaving:
                del self.pods[pod.name]
            elif not pod.bound and pod.node in self.taken:
                self.pods[pod.name] = replace(pod, trouble=NOWHERE)
            elif not pod.sick and not pod.dead and (pod.bound or not self.nodes[pod.node].cordoned):
                self.pods[pod.name] = replace(pod, bound=True, ready=True, restarts=0, trouble=None)
                self.loads.setdefault(pod.name, Load())

    def settle(self) -> None:
        for _ in range(400):
            # No steps is no end while one has yet to attach: until then nobody that serves is told to go.
            if not self.turn() and all(serves(pod, self.loads) for pod in self.pods.values()):
                return
            self.kubelets()
            self.now += 50
        raise AssertionError(f"no end: {self.pods}")


def world(per_node: int, most: int) -> World:
    return World(
        {
            name: PoolSeen(name, f"{name}-uid", LABELS, per_node, GPU, "t0", max_unavailable=most)
            for name in ("one", "two")
        },
        {name: NodeSeen(name, LABELS, allocatable={GPU: 4}) for name in NODES},
    )


@settings(max_examples=150)
@given(data=st.data(), per_node=st.integers(0, 4), most=st.integers(1, 3))
def test_never_too_many_never_too_few_and_in_the_end_all_that_was_asked_for(
    data: st.DataObject, per_node: int, most: int
) -> None:
    sim = world(per_node, most)
    for _ in range(data.draw(st.integers(1, 25))):
        disturb(sim, data)
        sim.turn()
        if data.draw(st.booleans()):
            sim.kubelets()
    for name, node in sim.nodes.items():
        sim.nodes[name] = replace(node, ready=True, cordoned=False, labels=LABELS, allocatable={GPU: 4})
    for name, pod in sim.pods.items():
        sim.pods[name] = replace(pod, sick=False)
    sim.taken.clear()
    sim.settle()
    found = Counter((pod.owner, pod.node) for pod in sim.pods.values())
    one, two = sim.pools["one"].gpus_per_node, sim.pools["two"].gpus_per_node
    for node in NODES:
        assert found["one-uid", node] + found["two-uid", node] == min(4, one + two)
        assert found["one-uid", node] <= one
        assert found["two-uid", node] <= two
    templates = {pool.uid: pool.template for pool in sim.pools.values()}
    assert all(pod.template == templates[pod.owner] for pod in sim.pods.values())


def disturb(sim: World, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NODES))
    node = sim.nodes[name]
    pool = data.draw(st.sampled_from(list(sim.pools.values())))
    pods = sorted(sim.pods)
    what = data.draw(st.sampled_from(EVENTS))
    match what:
        case "template":
            sim.pools[pool.name] = replace(pool, template=f"t{data.draw(st.integers(0, 3))}")
        case "size":
            sim.pools[pool.name] = replace(pool, gpus_per_node=data.draw(st.integers(0, 4)))
        case "ready":
            sim.nodes[name] = replace(node, ready=not node.ready)
        case "cordon":
            sim.nodes[name] = replace(node, cordoned=not node.cordoned)
        case "labels":
            sim.nodes[name] = replace(node, labels=data.draw(st.sampled_from(({}, LABELS))))
        case "devices":
            sim.nodes[name] = replace(node, allocatable={GPU: data.draw(st.integers(0, 4))})
        case "taken":
            sim.taken ^= {name}
        case "operator":
            sim.loads.clear()
        case "load":
            for attached in sim.loads:
                sim.loads[attached] = Load(data.draw(st.integers(0, 2)))
        case "pod" if pods:
            pod = sim.pods[data.draw(st.sampled_from(pods))]
            change = data.draw(st.sampled_from(({"dead": True}, {"sick": True}, {"restarts": 2}, {"leaving": True})))
            sim.pods[pod.name] = replace(pod, ready=False, **change)  # type: ignore[arg-type]
            sim.loads.pop(pod.name, None)
        case _:
            pass


def test_an_update_goes_past_those_that_are_mute_and_will_not_let_go() -> None:
    """Attached, with pipelines, and not ready, each until it is told to end: at most one more than may be is down."""
    sim = world(2, 1)
    del sim.pools["two"]
    sim.settle()
    sim.pools["one"] = replace(sim.pools["one"], template="t1")
    mute = {"one-a-0": sim.pods["one-a-0"].uid, "one-b-1": sim.pods["one-b-1"].uid}
    began = sim.now
    while any(pod.template == "t0" for pod in sim.pods.values()):
        for name, uid in mute.items():
            if (pod := sim.pods.get(name)) and pod.uid == uid and not pod.leaving:
                sim.pods[name] = replace(pod, ready=False, since=began, grace=GRACE)
                sim.loads[name] = Load(2)
        sim.turn()
        sim.kubelets()
        assert sim.now < began + 2 * GRACE, sim.pods
    assert sim.now > began + GRACE


@given(first=st.sampled_from(NODES), taken=st.sets(st.sampled_from(NODES)), most=st.integers(1, 3))
def test_an_update_goes_past_a_node_that_took_nobody_and_stops_where_nodes_take_nobody_any_more(
    first: str, taken: set[str], most: int
) -> None:
    """Who waits since before the update is no reason to stop it; who waits for the sake of it is."""
    sim = world(1, most)
    del sim.pools["two"]
    sim.settle()
    sim.taken = {first}
    lost = next(pod for pod in sim.pods.values() if pod.node == first)
    sim.pods[lost.name] = replace(lost, bound=False, ready=False, trouble=NOWHERE)
    del sim.loads[lost.name]
    sim.pools["one"] = replace(sim.pools["one"], template="t1")
    sim.taken |= taken
    for _ in range(20):
        sim.turn()
        sim.kubelets()
        sim.now += 50
    away = [pod for pod in sim.pods.values() if not pod.ready and pod.node != first]
    assert len(away) <= min(most, len(taken - {first}))
    if taken <= {first}:
        assert {pod.template for pod in sim.pods.values()} == {"t1"}


def test_an_update_goes_through_all_workers_one_by_one_and_the_busiest_is_last() -> None:
    sim = world(2, 1)
    del sim.pools["two"]
    sim.settle()
    sim.loads["one-a-0"] = Load(3)
    sim.pools["one"] = replace(sim.pools["one"], template="t1")
    order = []
    for _ in range(40):
        before = {pod.name for pod in sim.pods.values() if pod.leaving}
        sim.turn()
        order += sorted({pod.name for pod in sim.pods.values() if pod.leaving} - before)
        sim.kubelets()
    assert len(order) == 6
    assert order[-1] == "one-a-0"
    assert {pod.template for pod in sim.pods.values()} == {"t1"}
