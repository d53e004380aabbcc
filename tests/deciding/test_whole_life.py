"""The whole life of functions on a simulated fleet: cold start, growth, faults, taking turns, zero."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deciding.values import function, model
from deciding.world import Device, World
from forebay_api.function import LoadingStrategy, Scaling
from forebay_operator.decide.seen import FunctionSeen, Link
from forebay_operator.decide.steps import Hold

AMPLE = 10**9


def fleet(count: int = 4, memory: int = AMPLE, bucket: float | None = None) -> list[Device]:
    link = Link(100.0) if bucket is None else Link(bucket, "switch", bucket)
    return [Device(f"w{i}", memory, link) for i in range(count)]


def one(memory: int = AMPLE, *, count: int = 4, bucket: float | None = None, **spec: object) -> World:
    world = World([model()], [function(**spec)], fleet(count, memory, bucket))  # type: ignore[arg-type]
    world.settle()
    return world


def to_zero(world: World) -> None:
    """Everything that runs ends, time passes, and nothing is left anywhere."""
    for _ in range(20):
        world.settle()
        world.serve()
        world.load_all()
        world.finish()
        if not world.waiting.total() and not any(pipe.running for pipe in world.pipes.values()):
            break
        world.now += 31
    world.settle()
    world.now += 100
    world.settle()
    assert not world.waiting.total()
    assert not world.pipes
    assert all(not device.held for device in world.devices.values())


def test_a_function_at_zero_loads_nothing() -> None:
    world = one()
    assert world.known == {"b"}
    assert not world.pipes
    assert all(device.prepared == {"b"} and not device.held for device in world.devices.values())


def test_the_first_request_forms_a_pipeline_before_anything_is_loaded() -> None:
    world = one()
    world.ask("f")
    world.settle()
    assert world.formed("b") == [4]
    assert not any(held.resident for device in world.devices.values() for held in device.held.values())
    assert world.forms[0].predicted is not None


def test_any_number_of_replicas_may_be_asked_for() -> None:
    """More than there are devices take no longer to decide on."""
    most = 2**31 - 1
    functions = [
        function(name, backbone=name, scaling=Scaling(min_replicas=most, max_replicas=most)) for name in ("a", "b")
    ]
    world = World([model("a"), model("b")], functions, fleet())
    world.settle()
    world.load_all()
    assert world.full("a") == world.full("b") == ["w0", "w1", "w2", "w3"]
    pinned = one(replicas=most)
    pinned.load_all()
    assert pinned.full("b") == ["w0", "w1", "w2", "w3"]


def test_it_grows_to_exactly_the_replicas_that_are_wanted_and_returns_to_zero() -> None:
    world = one()
    world.ask("f")
    world.settle()
    world.serve()
    world.load_all()
    # The request that runs in the long pipeline keeps it; new ones go to the worker that holds everything.
    assert world.formed("b") == [1]
    assert world.finish()
    world.settle()
    assert len(world.full("b")) == 1
    assert [device.name for device in world.devices.values() if device.held] == world.full("b")
    to_zero(world)


def test_pipelines_only_ever_get_shorter_while_nothing_fails() -> None:
    world = one()
    world.ask("f")
    world.settle()
    world.serve()
    world.load_all()
    lengths = [len(form.stages) for form in world.forms]
    assert lengths[0] == 4
    assert lengths[-1] == 1
    assert lengths == sorted(set(lengths), reverse=True)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_pinned_replicas_end_as_that_many_full_workers(replicas: int) -> None:
    world = one(replicas=replicas)
    world.load_all()
    assert world.formed("b") == [1] * replicas
    assert len(world.full("b")) == replicas
    assert sum(device.loads.total() for device in world.devices.values()) == replicas * 6


def test_more_replicas_than_stages_join_once_something_serves() -> None:
    world = one(replicas=3, strategy=LoadingStrategy.FULL)
    assert world.formed("b") == [1]
    assert sum(bool(device.held) for device in world.devices.values()) == 1
    world.load_all()
    assert world.formed("b") == [1, 1, 1]


def test_a_shared_bucket_means_one_worker() -> None:
    world = one(bucket=100.0)
    world.ask("f")
    world.settle()
    assert world.formed("b") == [1]
    assert sum(bool(device.held) for device in world.devices.values()) == 1


def test_no_more_workers_are_filled_than_replicas_may_be() -> None:
    world = one(scaling=Scaling(max_replicas=2))
    world.ask("f")
    world.settle()
    head = world.forms[0].stages[-1].worker
    filling = {name for name, device in world.devices.items() if len(device.held["b"].order) == 6}
    assert len(filling) == 2
    assert head in filling


def test_a_model_larger_than_one_device_stays_a_pipeline() -> None:
    world = one(memory=450)
    world.ask("f")
    world.settle()
    world.serve()
    world.load_all()
    assert world.finish()
    world.settle()
    assert min(world.formed("b")) > 1
    assert not world.full("b")
    to_zero(world)


def test_a_model_that_fits_nowhere_is_refused_with_what_is_short() -> None:
    world = one(memory=100)
    world.ask("f")
    plan = world.settle()
    (refusal,) = plan.refusals.values()
    assert "memory is short" in refusal.message
    assert not world.pipes


@pytest.mark.parametrize("victim", range(4))
@pytest.mark.parametrize("landings", range(0, 7))
def test_any_worker_may_die_at_any_moment_of_a_cold_start(victim: int, landings: int) -> None:
    world = one()
    world.ask("f")
    world.settle()
    world.serve()
    for _ in range(landings):
        for name in world.devices:
            world.load(name)
        world.settle()
    world.kill(f"w{victim}")
    world.settle()
    world.serve()
    assert world.formed("b")
    assert not world.waiting.total()
    world.replace(f"w{victim}")
    world.settle()
    world.load_all()
    assert world.finish()
    to_zero(world)


def test_what_survivors_hold_is_not_loaded_again() -> None:
    world = one(replicas=4)
    for _ in range(3):
        for name in world.devices:
            world.load(name)
        world.settle()
    before = {name: set(device.held["b"].resident) for name, device in world.devices.items()}
    world.kill("w1")
    world.settle()
    assert all(world.devices[name].held["b"].resident >= before[name] for name in ("w0", "w2", "w3"))
    world.replace("w1")
    world.settle()
    world.load_all()
    assert len(world.full("b")) == 4  # and `load` asserts that nothing was read twice


def test_two_of_four_may_die_at_once() -> None:
    world = one()
    world.ask("f")
    world.settle()
    world.serve()
    for name in world.devices:
        world.load(name)
    world.settle()
    world.kill("w0")
    world.kill("w3")
    world.settle()
    world.serve()
    assert not world.waiting.total()
    world.load_all()
    assert world.finish()
    to_zero(world)


def two(memory: int, count: int = 2) -> World:
    functions: list[FunctionSeen] = [function("f", backbone="a"), function("g", backbone="b")]
    world = World([model("a"), model("b")], functions, fleet(count, memory))
    world.settle()
    return world


def test_two_functions_live_side_by_side_when_memory_allows() -> None:
    world = two(AMPLE)
    world.ask("f")
    world.ask("g")
    world.settle()
    world.serve()
    world.load_all()
    assert world.finish()
    world.settle()
    assert len(world.full("a")) == len(world.full("b")) == 1
    to_zero(world)


def test_two_functions_take_turns_on_memory_for_one() -> None:
    world = two(900, count=1)
    for name, backbone, other in (("f", "a", "b"), ("g", "b", "a"), ("f", "a", "b")):
        world.ask(name)
        world.settle()
        world.serve()
        world.load_all()
        assert world.full(backbone) == ["w0"]
        assert not world.full(other)
        assert world.finish()
        world.now += 1
    to_zero(world)


def test_a_function_with_a_running_request_is_not_evicted() -> None:
    world = two(900, count=1)
    world.ask("f")
    world.settle()
    world.serve()
    world.load_all()
    world.ask("g")
    plan = world.settle()
    assert world.full("a") == ["w0"]
    assert [key.name for key in plan.refusals] == ["g"]
    assert world.finish()
    world.settle()
    world.serve()
    world.load_all()
    assert world.full("b") == ["w0"]
    assert world.finish()


def test_the_load_order_changes_while_loading() -> None:
    """A death gives a survivor units it has not loaded yet; they come before what it was filling with."""
    world = one()
    world.ask("f")
    world.settle()
    lost = world.forms[0].stages[1]
    world.kill(lost.worker)
    plan = world.decide()
    told = [step for step in plan.steps if isinstance(step, Hold)]
    assert any(set(lost.units) & set(step.order[: step.urgent]) for step in told)


def test_a_lost_function_leaves_nothing() -> None:
    world = one(replicas=2)
    world.load_all()
    del world.functions["f"]
    world.settle()
    assert not world.pipes
    assert all(not device.held for device in world.devices.values())


EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["f", "g"])),
    st.tuples(st.just("load"), st.sampled_from(["w0", "w1", "w2"])),
    st.tuples(st.just("kill"), st.sampled_from(["w0", "w1", "w2"])),
    st.tuples(st.just("replace"), st.sampled_from(["w0", "w1", "w2"])),
    st.tuples(st.just("deliver"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["decide", "serve", "finish", "wait"]), st.none()),
)


@settings(max_examples=300)
@given(
    events=st.lists(EVENTS, max_size=60),
    memory=st.sampled_from([450, 700, 1000, 1400, AMPLE]),
    replicas=st.sampled_from([None, 1, 2, 3]),
)
def test_whatever_happens_it_settles_and_ends_with_what_is_wanted(
    events: list[tuple[str, object]], memory: int, replicas: int | None
) -> None:
    functions = [function("f", backbone="a"), function("g", backbone="b", scaling=Scaling(max_replicas=2))]
    world = World([model("a"), model("b", (0, 60, 60, 60, 120))], functions, fleet(3, memory))
    for what, subject in events:
        match what:
            case "decide":
                world.decide()
            case "wait":
                world.now += 20
                world.advance_pipes()
            case "serve" | "finish":
                getattr(world, what)()
            case _:
                getattr(world, what)(subject)
    for name in world.devices:
        world.replace(name)
    world.settle()
    world.serve()
    to_zero(world)
    if replicas is not None and memory == AMPLE:
        world.functions["f"] = function("f", backbone="a", replicas=replicas)
        world.settle()
        world.load_all()
        assert world.formed("a") == [1] * replicas
        assert len(world.full("a")) == replicas
