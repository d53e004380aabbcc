"""Worker pools: which pods and claims, on which nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deciding.pool_values import CLAIMS, GPU, NODE, NOW, POOL, created, deleted, old, plan, pod
from forebay_operator.decide.pool_deaths import deaths, over_at
from forebay_operator.decide.pool_names import claim_name, free_names, node_label, pod_name
from forebay_operator.decide.pool_nodes import NodeState, state
from forebay_operator.decide.pool_seen import (
    ClaimSeen,
    Death,
    NodeSeen,
    PoolsSeen,
    Taint,
    Toleration,
)
from forebay_operator.decide.pools import (
    CreateClaim,
    CreatePod,
    DeletePod,
    NodeCount,
    PoolPlan,
    Why,
    next_pool_steps,
)

# -- names --


def test_names_are_readable_where_they_can_be() -> None:
    assert pod_name("gpu", "node-1", 3) == "gpu-node-1-3"
    assert claim_name("gpu", "node-1") == "gpu-node-1"
    assert node_label("node-1.example") == "node-1.example"


def test_dots_and_length_are_replaced_by_a_hash_that_keeps_names_apart() -> None:
    dotted = pod_name("gpu", "ip-10-0-0-1.internal", 0)
    assert dotted.startswith("gpu-ip-10-0-0-1-internal-")
    assert dotted != pod_name("gpu", "ip-10-0-0-1-internal", 0)
    assert node_label("n" * 70) != node_label("n" * 71)
    for name in (pod_name("p" * 40, "n" * 200, 15), claim_name("p" * 40, "n." * 100), node_label("n." * 100)):
        assert len(name) <= 63
        assert name.strip("-.") == name


def test_the_lowest_free_index_is_taken() -> None:
    assert free_names("p", "a", {"p-a-0", "p-a-2"}, 2) == ((1, "p-a-1"), (3, "p-a-3"))
    assert free_names("p", "a", frozenset(), 0) == ()


# -- nodes --


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (NODE, NodeState.OPEN),
        (replace(NODE, labels={"zone": "1"}), NodeState.FOREIGN),
        (replace(NODE, ready=False, cordoned=True), NodeState.NOT_READY),
        (replace(NODE, cordoned=True), NodeState.CORDONED),
        (replace(NODE, taints=(Taint("gpu", "NoSchedule"),)), NodeState.TAINTED),
        (replace(NODE, taints=(Taint("gpu", "PreferNoSchedule"),)), NodeState.OPEN),
    ],
)
def test_where_pods_may_be_created(node: NodeSeen, found: NodeState) -> None:
    assert state(POOL, node) is found
    assert bool(created(plan(nodes=(node,)))) is (found is NodeState.OPEN)


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        (Toleration(operator="Exists"), True),
        (Toleration("gpu", "Exists"), True),
        (Toleration("gpu", "Equal", "big"), True),
        (Toleration("gpu", "Equal", "small"), False),
        (Toleration("gpu", "Exists", effect="NoSchedule"), True),
        (Toleration("gpu", "Exists", effect="NoExecute"), False),
        (Toleration("cpu", "Exists"), False),
        (Toleration("", "Equal", "big"), False),
    ],
)
def test_a_toleration_is_read_as_the_scheduler_reads_it(toleration: Toleration, tolerates: bool) -> None:
    tainted = replace(NODE, taints=(Taint("gpu", "NoSchedule", "big"),))
    assert (state(replace(POOL, tolerations=(toleration,)), tainted) is NodeState.OPEN) is tolerates


# -- creating --


def test_a_node_gets_its_claim_and_then_a_pod_for_each_device() -> None:
    found = plan(claims=())
    assert found.steps == (
        CreateClaim("p", "a", "p-a"),
        CreatePod("p", "a", 0, "p-a-0"),
        CreatePod("p", "a", 1, "p-a-1"),
    )
    assert found.counts["p"].nodes == (NodeCount("a", NodeState.OPEN, 2, 0, 0, 0),)
    assert found.wake_at is None


def test_without_a_cache_there_is_no_claim() -> None:
    assert created(plan(claims=(), pool=replace(POOL, cache=False))) == ["p-a-0", "p-a-1"]
    assert len(plan(claims=(), pool=replace(POOL, cache=False)).steps) == 2


def test_nothing_is_left_to_do_when_all_is_there() -> None:
    found = plan(pod("p-a-0"), pod("p-a-1"))
    assert found.steps == ()
    assert (found.counts["p"].desired, found.counts["p"].ready, found.counts["p"].updated) == (2, 2, 2)


def test_a_pod_that_is_gone_comes_back_and_no_other_moves() -> None:
    assert created(plan(pod("p-a-1"))) == ["p-a-0"]
    assert deleted(plan(pod("p-a-1"))) == []


def test_zero_per_node_is_none() -> None:
    found = plan(pool=replace(POOL, gpus_per_node=0))
    assert found.steps == ()
    assert found.counts["p"].desired == 0


def test_never_more_than_the_node_has_to_give() -> None:
    three = replace(POOL, gpus_per_node=3)
    assert created(plan(pool=three, nodes=(replace(NODE, allocatable={GPU: 1}),))) == ["p-a-0"]
    assert created(plan(pool=three, nodes=(replace(NODE, allocatable={}),))) == []
    assert plan(pool=three, nodes=(replace(NODE, allocatable={}),)).counts["p"].desired == 0


def test_a_leaving_pod_keeps_its_device_and_its_place_until_it_is_gone() -> None:
    found = plan(pod("p-a-0", leaving=True), pod("p-a-1"))
    assert found.steps == ()
    assert found.counts["p"].nodes == (NodeCount("a", NodeState.OPEN, 2, 1, 1, 1),)


def test_two_pools_share_what_a_node_has() -> None:
    node = replace(NODE, allocatable={GPU: 3, "other": 1})
    pools = (
        POOL,
        replace(POOL, name="a", uid="first", cache=False),
        replace(POOL, name="z", uid="last", resource="other"),
    )
    found = next_pool_steps(PoolsSeen(pools, (node,), (), CLAIMS), NOW)
    assert created(found) == ["a-a-0", "a-a-1", "p-a-0", "z-a-0"]


def test_a_name_that_another_pool_has_is_passed_over() -> None:
    taken = pod("p-a-0", owner="another")
    assert created(plan(taken)) == ["p-a-1", "p-a-2"]


@pytest.mark.parametrize("claim", [ClaimSeen("p-a", "another"), ClaimSeen("p-a", "pool-uid", leaving=True)])
def test_pods_wait_for_a_claim_that_is_not_theirs(claim: ClaimSeen) -> None:
    found = plan(claims=(claim,))
    assert found.steps == ()
    assert found.counts["p"].blocked == ("p-a",)
    assert found.counts["p"].desired == 2
    assert plan(claims=(claim,), pool=replace(POOL, cache=False)).steps != ()


def test_a_claim_that_a_person_made_is_used() -> None:
    assert plan(claims=(ClaimSeen("p-a"),)).steps == (
        CreatePod("p", "a", 0, "p-a-0"),
        CreatePod("p", "a", 1, "p-a-1"),
    )


# -- what goes on by itself --


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (replace(NODE, ready=False), NodeState.NOT_READY),
        (replace(NODE, cordoned=True), NodeState.CORDONED),
    ],
)
def test_pods_of_a_node_that_takes_no_new_ones_are_kept(node: NodeSeen, found: NodeState) -> None:
    made = plan(old("p-a-0", ready=False), pod("p-a-1"), nodes=(node,))
    assert made.steps == ()
    assert made.counts["p"].nodes == (NodeCount("a", found, 2, 1, 1, 2),)


def test_pods_are_kept_while_the_device_plugin_restarts() -> None:
    found = plan(old("p-a-0"), pod("p-a-1"), nodes=(replace(NODE, allocatable={GPU: 0}),))
    assert found.steps == ()
    assert found.counts["p"].nodes == (NodeCount("a", NodeState.OPEN, 2, 2, 1, 2),)


def test_pods_of_a_node_that_is_not_seen_are_left_to_kubernetes() -> None:
    found = plan(pod("p-z-0"), pod("p-z-1", dead=True), nodes=())
    assert found.steps == ()
    assert found.counts["p"].nodes == ()


def test_pods_of_a_pool_that_is_gone_are_left_to_kubernetes() -> None:
    assert next_pool_steps(PoolsSeen((), (NODE,), (pod(),)), NOW) == PoolPlan((), {})


def test_a_foreign_node_without_pods_is_not_counted() -> None:
    assert plan(nodes=(replace(NODE, labels={}),)).counts["p"].nodes == ()


# -- the dead --


def test_a_dead_pod_goes_before_another_takes_its_place() -> None:
    found = plan(pod("p-a-0", dead=True, ready=False), pod("p-a-1"))
    assert found.steps == (DeletePod("p", "p-a-0", "p-a-0-uid", Why.DEAD),)
    assert found.counts["p"].nodes == (NodeCount("a", NodeState.OPEN, 2, 1, 1, 1),)
    assert plan(pod("p-a-0", dead=True, leaving=True), pod("p-a-1")).steps == ()


def test_one_that_dies_again_and_again_waits_longer_and_longer() -> None:
    dead = pod("p-a-0", dead=True, ready=False, created=NOW - 5)
    known = deaths({}, [dead], NOW)
    assert known == {"p-a-0": Death("p-a-0-uid", 1, NOW)}
    found = plan(dead, pod("p-a-1"), deaths=known)
    assert (found.steps, found.wake_at) == ((), NOW + 10)
    waits, at = [], NOW
    for uid in "abcdefgh":
        known = deaths(known, [replace(dead, uid=uid, created=at)], at)
        waits.append(over_at(known["p-a-0"]) - at)
        at += 1
    assert waits == [20, 40, 80, 160, 300, 300, 300, 300]


def test_one_that_lived_is_replaced_at_once() -> None:
    dead = pod("p-a-0", dead=True, created=NOW - 600)
    assert deaths({"p-a-0": Death("earlier", 5, NOW - 700)}, [dead], NOW)["p-a-0"].quick == 0
    assert over_at(Death("u", 0, NOW)) == 0
    assert over_at(None) == 0


def test_a_death_is_remembered_while_it_counts() -> None:
    death = Death("u", 3, NOW)
    assert deaths({"p-a-0": death}, [pod("p-a-0", dead=True, uid="u"), pod("p-a-1")], NOW + 1) == {"p-a-0": death}
    assert deaths({"p-a-0": death}, [], NOW + 899) == {"p-a-0": death}
    assert deaths({"p-a-0": death}, [], NOW + 900) == {}


def test_one_that_was_told_to_end_died_of_that() -> None:
    assert deaths({}, [pod("p-a-0", dead=True, leaving=True)], NOW) == {}
