"""Worker pools: who goes first, and how many at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deciding.pool_values import CLAIMS, GPU, NODE, NOW, OTHER, POOL, deleted, old, plan, pod
from forebay_operator.decide.pool_nodes import NodeState
from forebay_operator.decide.pool_seen import (
    Load,
    NodeSeen,
    PodSeen,
    PoolsSeen,
    Taint,
)
from forebay_operator.decide.pools import (
    NodeCount,
    Why,
    next_pool_steps,
)

# -- fewer --


def test_the_least_loaded_goes_first_and_the_highest_index_among_equals() -> None:
    one = replace(POOL, gpus_per_node=1, max_unavailable=9)
    assert deleted(plan(pod("p-a-0"), pod("p-a-1"), pool=one)) == [("p-a-1", Why.SURPLUS)]
    busy = {"p-a-1": Load(1), "p-a-0": Load(0, 0, 5)}
    assert deleted(plan(pod("p-a-0"), pod("p-a-1"), pool=one, loads=busy)) == [("p-a-0", Why.SURPLUS)]
    assert deleted(plan(*[pod(f"p-a-{i}") for i in (2, 9, 10)], pool=one)) == [
        ("p-a-10", Why.SURPLUS),
        ("p-a-9", Why.SURPLUS),
    ]


def test_shrinking_takes_one_at_a_time() -> None:
    none = replace(POOL, gpus_per_node=0)
    assert deleted(plan(pod("p-a-0"), pod("p-a-1"), pool=none)) == [("p-a-1", Why.SURPLUS)]
    assert deleted(plan(pod("p-a-0"), pod("p-a-1", leaving=True), pool=none)) == []
    assert deleted(plan(pod("p-a-0"), pool=none)) == [("p-a-0", Why.SURPLUS)]


def test_pods_on_a_node_that_left_the_selector_go_one_at_a_time() -> None:
    moved = replace(NODE, labels={})
    found = plan(pod("p-a-0"), pod("p-a-1"), nodes=(moved,))
    assert deleted(found) == [("p-a-1", Why.SURPLUS)]
    assert found.counts["p"].nodes == (NodeCount("a", NodeState.FOREIGN, 0, 0, 0, 2),)


def test_what_does_nothing_goes_at_once() -> None:
    none = replace(POOL, gpus_per_node=0)
    idle = [pod("p-a-0", ready=False), pod("p-a-1", sick=True), pod("p-a-2", ready=False), pod("p-a-3")]
    idle[2] = replace(idle[2], since=NOW, grace=60.0)
    found = plan(*idle, pool=none, loads={"p-a-2": Load(1)})
    assert deleted(found) == [("p-a-1", Why.SURPLUS), ("p-a-0", Why.SURPLUS)]


def test_what_cannot_run_does_not_stop_a_shrinking() -> None:
    pool = replace(POOL, gpus_per_node=1)
    crashing = pod("p-b-0", ready=False, restarts=3)
    waiting = pod("p-b-0", ready=False, trouble=("Unschedulable", "0/2 nodes are available"))
    starting = pod("p-b-0", ready=False)
    for other, gone in ((crashing, 1), (waiting, 1), (starting, 0)):
        found = plan(pod("p-a-0"), pod("p-a-1"), other, pool=pool, nodes=(NODE, OTHER))
        assert len(deleted(found)) == gone


@pytest.mark.parametrize(
    "nodes",
    [
        (NODE,),
        (NODE, replace(OTHER, cordoned=True)),
        (NODE, replace(OTHER, taints=(Taint("maintenance", "NoSchedule"),))),
    ],
    ids=["gone", "cordoned", "tainted"],
)
def test_one_that_waits_for_a_node_that_will_not_take_it_goes_at_once(nodes: tuple[NodeSeen, ...]) -> None:
    stray = pod("p-b-0", bound=False, ready=False, trouble=("Unschedulable", "0/2 nodes are available"))
    found = plan(pod("p-a-0"), pod("p-a-1", leaving=True), stray, nodes=nodes)
    assert deleted(found) == [("p-b-0", Why.STRAY)]
    assert (found.counts["p"].desired, found.counts["p"].ready) == (2, 1)
    for kept in (replace(stray, bound=True), replace(stray, leaving=True), replace(stray, owner="another")):
        assert deleted(plan(pod("p-a-0"), pod("p-a-1"), kept, nodes=nodes)) == []


@pytest.mark.parametrize("node", [OTHER, replace(OTHER, ready=False)])
def test_one_that_waits_for_a_node_that_may_yet_take_it_stays(node: NodeSeen) -> None:
    assert deleted(plan(pod("p-b-0", bound=False, ready=False), nodes=(node,))) == []


# -- another template --


def test_a_new_template_replaces_one_at_a_time_over_the_whole_pool() -> None:
    nodes = (NODE, OTHER)
    pods = [old("p-a-0"), old("p-a-1"), old("p-b-0"), old("p-b-1")]
    busy = {"p-a-0": Load(2), "p-a-1": Load(1), "p-b-0": Load(1, 7), "p-b-1": Load(3)}
    assert deleted(plan(*pods, nodes=nodes, loads=busy)) == [("p-a-1", Why.OUTDATED)]
    two = replace(POOL, max_unavailable=2)
    assert deleted(plan(*pods, nodes=nodes, loads=busy, pool=two)) == [
        ("p-a-1", Why.OUTDATED),
        ("p-b-0", Why.OUTDATED),
    ]


@pytest.mark.parametrize(
    "replacement",
    [
        [pod("p-a-1", leaving=True)],
        [],
        [pod("p-a-1", ready=False)],
        [pod("p-a-1", ready=False, restarts=5)],
        [pod("p-a-1", dead=True, ready=False)],
    ],
)
def test_the_next_waits_until_the_former_replacement_serves(replacement: list[PodSeen]) -> None:
    assert Why.OUTDATED not in {why for _, why in deleted(plan(old("p-a-0"), *replacement))}


def test_a_replacement_serves_when_it_is_attached_too() -> None:
    seen = PoolsSeen((POOL,), (NODE,), (old("p-a-0"), pod("p-a-1")), CLAIMS, {"p-a-0": Load()})
    assert next_pool_steps(seen, NOW).steps == ()
    assert deleted(next_pool_steps(replace(seen, loads={"p-a-0": Load(), "p-a-1": Load()}), NOW)) == [
        ("p-a-0", Why.OUTDATED)
    ]


def test_an_operator_to_which_nobody_is_attached_yet_replaces_none() -> None:
    seen = PoolsSeen((replace(POOL, max_unavailable=9),), (NODE,), (old("p-a-0"), old("p-a-1")), CLAIMS, began=NOW)
    found = next_pool_steps(seen, NOW + 59)
    assert (found.steps, found.wake_at) == ((), NOW + 600)
    fewer = replace(seen, pools=(replace(POOL, gpus_per_node=1, max_unavailable=9),))
    assert next_pool_steps(fewer, NOW + 59).steps == ()


def test_while_nobody_is_attached_silence_says_little() -> None:
    """After a fail-over in which workers do not reach the new leader, all are ready and serve on."""
    pods = (old("p-a-0", since=NOW), old("p-a-1", since=NOW))
    seen = PoolsSeen((POOL,), (NODE,), pods, CLAIMS)
    waiting = next_pool_steps(seen, NOW + 599)
    assert (waiting.steps, waiting.wake_at) == ((), NOW + 600)
    # Nor for ever: their template may be what keeps them away.
    assert deleted(next_pool_steps(seen, NOW + 600)) == [("p-a-1", Why.OUTDATED)]


@pytest.mark.parametrize("most", [1, 2])
def test_those_that_never_attach_go_first_and_are_charged(most: int) -> None:
    pool = replace(POOL, gpus_per_node=4, max_unavailable=most)
    silent = [old(f"p-a-{number}", since=NOW) for number in range(3)]
    seen = PoolsSeen((pool,), (NODE,), (*silent, old("p-a-3")), CLAIMS, {"p-a-3": Load()})
    assert next_pool_steps(seen, NOW + 59).steps == ()
    first = [("p-a-2", Why.OUTDATED), ("p-a-1", Why.OUTDATED)][:most]
    assert deleted(next_pool_steps(seen, NOW + 60)) == first
    fewer = replace(seen, pools=(replace(pool, gpus_per_node=0),))
    assert deleted(next_pool_steps(fewer, NOW + 60)) == [(name, Why.SURPLUS) for name, _ in first]


def test_one_that_never_attached_is_not_followed_by_one_that_serves() -> None:
    seen = PoolsSeen((POOL,), (NODE,), (old("p-a-0"), old("p-a-1")), CLAIMS, {"p-a-1": Load()})
    assert deleted(next_pool_steps(seen, NOW)) == [("p-a-0", Why.OUTDATED)]
    one = replace(seen, pools=(replace(POOL, gpus_per_node=1),), loads={"p-a-1": Load(5)})
    assert deleted(next_pool_steps(one, NOW)) == [("p-a-0", Why.SURPLUS)]


def test_nobody_goes_while_one_may_yet_attach_that_does_less() -> None:
    one = replace(POOL, gpus_per_node=1, max_unavailable=9)
    seen = PoolsSeen((one,), (NODE,), (pod("p-a-0"), pod("p-a-1")), CLAIMS, {"p-a-0": Load(5)}, began=NOW)
    assert next_pool_steps(seen, NOW).steps == ()
    attached = replace(seen, loads={"p-a-0": Load(5), "p-a-1": Load(1)})
    assert deleted(next_pool_steps(attached, NOW)) == [("p-a-1", Why.SURPLUS)]


def test_old_pods_that_never_started_are_replaced_at_once() -> None:
    pods = [old("p-a-0", ready=False), old("p-a-1", ready=False)]
    assert {name for name, _ in deleted(plan(*pods))} == {"p-a-0", "p-a-1"}


NOWHERE = {"bound": False, "ready": False, "trouble": ("Unschedulable", "0/2 nodes are available")}


def test_one_that_no_node_takes_stops_no_update_and_is_replaced_last() -> None:
    nodes = (NODE, OTHER)
    waiting = old("p-b-1", **NOWHERE)
    found = plan(old("p-a-0"), pod("p-a-1"), old("p-b-0"), waiting, nodes=nodes, loads={"p-b-0": Load(1)})
    assert deleted(found) == [("p-a-0", Why.OUTDATED)]
    assert deleted(plan(pod("p-a-0"), pod("p-a-1"), pod("p-b-0"), waiting, nodes=nodes)) == [("p-b-1", Why.OUTDATED)]
    # Nor where its node has a device less than pods.
    fewer = (NODE, replace(OTHER, allocatable={GPU: 1}))
    assert deleted(plan(old("p-a-0"), pod("p-a-1"), old("p-b-0"), waiting, nodes=fewer)) == [("p-a-0", Why.OUTDATED)]


def test_an_update_to_a_template_that_no_node_takes_ends_with_the_first() -> None:
    asks_too_much = pod("p-a-1", **NOWHERE)
    assert deleted(plan(old("p-a-0"), asks_too_much, old("p-b-0"), nodes=(NODE, OTHER))) == []


def test_one_that_misses_probes_while_it_has_pipelines_is_spared_as_long_as_handing_over_may_take() -> None:
    busy = {"p-a-0": Load(1)}
    mute = old("p-a-0", ready=False, since=NOW - 59, grace=60.0)
    held_up = plan(mute, old("p-a-1"), loads=busy)
    assert (deleted(held_up), held_up.wake_at) == ([], NOW + 1)
    lost = replace(mute, since=NOW - 60)
    assert deleted(plan(lost, old("p-a-1"), loads=busy)) == [("p-a-0", Why.OUTDATED)]
    assert plan(replace(lost, ready=True), pod("p-a-1"), loads=busy).wake_at is None


def test_what_missed_probes_for_too_long_is_the_first_of_those_too_many() -> None:
    one = replace(POOL, gpus_per_node=1)
    mute = pod("p-a-0", ready=False, since=NOW - 60, grace=60.0)
    assert deleted(plan(mute, pod("p-a-1"), pool=one, loads={"p-a-0": Load(9)})) == [("p-a-0", Why.SURPLUS)]


def test_one_of_the_new_template_is_never_replaced_by_its_like() -> None:
    mute = pod("p-a-0", ready=False, since=NOW - 6000, grace=60.0)
    assert deleted(plan(mute, old("p-a-1"), loads={"p-a-0": Load(1)})) == []


def test_what_does_nothing_is_replaced_before_any_other() -> None:
    sick = old("p-a-0", sick=True)
    assert deleted(plan(sick, old("p-a-1"))) == [("p-a-0", Why.OUTDATED)]


def test_a_sick_device_holds_up_nobody() -> None:
    node = replace(NODE, allocatable={GPU: 1})
    sick = pod("p-a-0", sick=True)
    assert deleted(plan(sick, old("p-a-1"))) == [("p-a-1", Why.OUTDATED)]
    assert deleted(plan(replace(sick, template="old"), old("p-a-1"), nodes=(node,))) == [("p-a-0", Why.OUTDATED)]
    assert deleted(plan(old("p-a-1"), nodes=(node,))) == [("p-a-1", Why.OUTDATED)]


def test_an_unanswering_node_holds_up_nobody() -> None:
    away = replace(OTHER, ready=False)
    pods = [old("p-a-0"), pod("p-a-1"), old("p-b-0", ready=False), pod("p-b-1", leaving=True)]
    assert deleted(plan(*pods, nodes=(NODE, away))) == [("p-a-0", Why.OUTDATED)]


def test_shrinking_and_replacing_share_what_may_be_down() -> None:
    pods = [old("p-a-0"), old("p-a-1"), old("p-a-2")]
    for most, reasons in ((1, [Why.SURPLUS]), (2, [Why.SURPLUS, Why.OUTDATED])):
        found = plan(*pods, pool=replace(POOL, max_unavailable=most))
        assert [why for _, why in deleted(found)] == reasons
