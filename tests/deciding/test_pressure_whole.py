"""Functions that want more devices than there are, on a simulated fleet as time goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from random import Random

import pytest

from deciding.test_whole_life import fleet
from deciding.values import function, model
from deciding.world import World
from forebay_api.function import Scaling
from forebay_operator.decide.pressure import AGING, RESIDENCE, Turn
from forebay_operator.decide.seen import FunctionSeen, PipelinePhase

ONE = 900
"""Bytes of a device for one model."""


def of(name: str, *, priority: int = 0, least: int = 0, stages: int = 1) -> FunctionSeen:
    """A function of which every request is a replica."""
    scaling = Scaling(
        min_replicas=least,
        target=1.0,
        target_utilization_percent=100,
        max_replicas=8,
        scale_to_zero_grace_period_seconds=5,
    )
    return function(name, backbone=f"m-{name}", priority=priority, scaling=scaling, max_stages=stages)


class Crowd:
    """Keeps so many requests of each function going, one second after the other. Those that run end when their pipeline
    drains, and when nobody asks any more."""

    def __init__(self, functions: Sequence[FunctionSeen], devices: int, memory: int = ONE) -> None:
        models = [model(seen.backbone) for seen in functions]
        self.world = World(models, functions, fleet(devices, memory))
        self.world.settle()
        self.level: dict[str, int] = dict.fromkeys(self.world.functions, 0)
        self.served: Counter[str] = Counter()

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.after(1)

    def after(self, seconds: int) -> None:
        world = self.world
        world.now += seconds
        for name, level in self.level.items():
            running = sum(pipe.running.count(name) for pipe in world.pipes.values())
            for _ in range(level - running - world.waiting[name]):
                world.ask(name)
        world.settle()
        world.serve()
        world.load_all()
        for pipe in world.pipes.values():
            over = {name for name in pipe.running if not self.level[name]}
            if pipe.phase is PipelinePhase.DRAINING:
                over |= set(pipe.running)
            for name in [name for name in pipe.running if name in over]:
                pipe.running.remove(name)
                self.served[name] += 1
                seen = world.functions[name]
                world.functions[name] = replace(seen, demand=replace(seen.demand, last_ended=world.now))
        world.settle()

    def replicas(self) -> Mapping[str, int]:
        return {name: len(self.world.formed(f"m-{name}")) for name in self.world.functions}

    def payments(self) -> list[tuple[str, str]]:
        return [(payment.payer, payment.receiver) for payment in self.world.payments]


def test_higher_priority_gets_the_last_replica_at_once_and_nothing_is_cut() -> None:
    crowd = Crowd([of("low"), of("high", priority=1)], devices=1)
    crowd.level.update(low=1)
    crowd.seconds(3)
    assert crowd.replicas() == {"low": 1, "high": 0}
    crowd.level.update(high=1)
    crowd.seconds(2)
    assert crowd.replicas() == {"low": 0, "high": 1}
    assert crowd.served["low"] == 1
    (payment,) = crowd.world.payments
    assert payment.why == "default/low has priority 0, default/high has 1; default/high has waited 0.0 s"


def test_equals_take_turns() -> None:
    crowd = Crowd([of("f"), of("g"), of("h")], devices=1)
    crowd.level.update(f=1, g=1, h=1)
    crowd.seconds(200)
    turns = [payer for payer, _ in crowd.payments()]
    assert len(turns) == 200 // (RESIDENCE + 1)
    assert turns[:6] == ["m-f", "m-g", "m-h"] * 2
    assert "had its turn" in crowd.world.payments[0].why


def test_low_priority_is_served_at_last_for_one_residence() -> None:
    crowd = Crowd([of("low"), of("high", priority=9)], devices=1)
    crowd.level.update(low=1, high=1)
    shares: Counter[str] = Counter()
    for _ in range(400):
        crowd.after(1)
        shares.update({name: count for name, count in crowd.replicas().items() if count})
    cycle = AGING + RESIDENCE
    assert shares["low"] == pytest.approx(400 * RESIDENCE / cycle, abs=RESIDENCE)
    assert shares["high"] == pytest.approx(400 * AGING / cycle, abs=RESIDENCE)
    assert crowd.world.payments[0].why.startswith("default/high has priority 9, which counts no more after 120 s")


def test_two_that_want_everything_share() -> None:
    crowd = Crowd([of("f"), of("g")], devices=4)
    crowd.level.update(f=4)
    crowd.seconds(40)
    assert crowd.replicas() == {"f": 4, "g": 0}
    crowd.level.update(g=4)
    crowd.seconds(5)
    assert crowd.replicas() == {"f": 2, "g": 2}
    paid = len(crowd.payments())
    crowd.seconds(100)
    assert crowd.replicas() == {"f": 2, "g": 2}
    assert len(crowd.payments()) == paid == 2


def test_higher_priority_takes_all_above_the_minimum_and_no_more_to_grow() -> None:
    crowd = Crowd([of("low", least=1), of("high", priority=1)], devices=4)
    crowd.level.update(low=4)
    crowd.seconds(40)
    crowd.level.update(high=4)
    crowd.seconds(10)
    assert crowd.replicas() == {"low": 1, "high": 3}
    assert any("has 4 workers and needs 1" in payment.why for payment in crowd.world.payments)


def test_warm_ones_are_kept_from_equals_for_their_turn_and_come_back() -> None:
    crowd = Crowd([of("warm", least=1), of("f")], devices=1)
    crowd.seconds(20)
    assert crowd.replicas() == {"warm": 1, "f": 0}
    crowd.level.update(f=1)
    crowd.seconds(5)
    assert crowd.replicas() == {"warm": 1, "f": 0}
    crowd.seconds(30)
    assert crowd.replicas() == {"warm": 0, "f": 1}
    crowd.level.update(f=0)
    crowd.seconds(10)
    assert crowd.replicas() == {"warm": 1, "f": 0}


def test_growth_evicts_what_is_idle() -> None:
    crowd = Crowd([of("f"), of("g")], devices=2)
    crowd.level.update(g=1)
    crowd.seconds(2)
    crowd.level.update(g=0, f=2)
    crowd.seconds(4)
    assert crowd.replicas() == {"f": 2, "g": 0}


WHOLE = ((1, ONE), (2, ONE), (3, ONE), (4, ONE), (2, 2 * ONE))
"""Devices and their memory, where every model fits on one."""


def some(chance: Random, shapes: Sequence[tuple[int, int, int]]) -> Crowd:
    """Two or three functions on a fleet of one of ``shapes``: devices, their memory, stages at most."""
    names = "fgh"[: chance.randint(2, 3)]
    priority = {name: chance.choice([0, 0, 1]) for name in names}
    least = {name: chance.choice([0, 0, 1]) for name in names}
    devices, memory, stages = chance.choice(shapes)
    functions = [of(name, priority=priority[name], least=least[name], stages=stages) for name in names]
    return Crowd(functions, devices, memory)


def raised(crowd: Crowd, name: str, *, priority: bool) -> Crowd:
    """The same, where ``name`` has one more: of priority, or of requests at a time."""
    after = deepcopy(crowd)
    if priority:
        seen = after.world.functions[name]
        spec = replace(seen.function.spec, priority=seen.function.spec.priority + 1)
        after.world.functions[name] = replace(seen, function=replace(seen.function, spec=spec))
    else:
        after.level[name] += 1
    return after


@pytest.mark.parametrize("priority", [False, True], ids=["demand", "priority"])
def test_who_asks_for_more_or_counts_for_more_gets_no_less(priority: bool) -> None:
    """All else equal. Where pipelines are formed anew this would not say it: `Crowd` ends what runs on the old one."""
    more = 0
    for seed in range(20):
        chance = Random(seed)
        crowd = some(chance, [(devices, memory, 1) for devices, memory in WHOLE])
        names = list(crowd.level)
        for turn in range(40):
            if chance.random() < 0.2:
                crowd.level[chance.choice(names)] = chance.randint(0, 3)
            name = chance.choice(names)
            other = raised(crowd, name, priority=priority) if turn % 4 == 3 else None
            crowd.after(10)
            if other is not None:
                other.after(10)
                assert other.replicas()[name] >= crowd.replicas()[name], (seed, turn, name)
                more += other.replicas()[name] > crowd.replicas()[name]
    assert more > 5


MANY = [*range(50), *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(50, 200))]


@pytest.mark.parametrize("seed", MANY)
def test_random_fleets_serve_everybody_and_take_nothing_before_its_time(seed: int) -> None:
    """`World` checks memory, and that no request is cut and each time ends in a state where nothing is left to say."""
    chance = Random(seed)
    crowd = some(chance, [(1, ONE, 1), (2, ONE, 1), (3, ONE, 4), (2, 2 * ONE, 2), (2, 600, 4), (4, 600, 4)])
    names = list(crowd.level)
    priority = {name: seen.function.spec.priority for name, seen in crowd.world.functions.items()}
    longest = AGING + len(names) * (RESIDENCE + 10)
    for _ in range(40):
        if chance.random() < 0.2:
            crowd.level[chance.choice(names)] = chance.randint(0, 3)
        paid, turns = len(crowd.world.payments), crowd.world.turns
        crowd.after(10)
        for payment in crowd.world.payments[paid:]:
            payer, receiver = payment.payer.removeprefix("m-"), payment.receiver.removeprefix("m-")
            assert payer != receiver
            since = min(turns.of.get(payment.payer, Turn()).since.get(worker, 0.0) for worker in payment.workers)
            early = bool(since) and payment.at < since + RESIDENCE
            assert not early or "idle" in payment.why or priority[receiver] > priority[payer], payment
        for backbone, turn in crowd.world.turns.of.items():
            assert not turn.lacking or crowd.world.now - turn.lacking < longest, backbone
