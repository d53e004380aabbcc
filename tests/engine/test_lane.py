"""Steps keep their order at every unit, whatever arrives when."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forebay_worker.lane import Lane, Passage


@dataclass
class Unit:
    """Notes who went through; opens when told."""

    open: bool = False
    through: list[int] = field(default_factory=list)

    def ready(self, passage: Passage) -> bool:
        return self.open

    def run(self, passage: Passage) -> None:
        self.through.append(passage.number)


@given(order=st.permutations(range(5)), joins=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_no_step_overtakes(order: list[int], joins: list[int]) -> None:
    units, left = [Unit() for _ in range(5)], []
    lane = Lane(units, lambda passage: left.append(passage.number))
    number = 0
    for turn in range(6):
        for _ in range(joins.count(turn)):
            lane.add(Passage(number, (), ()))
            number += 1
        if turn < 5:
            units[order[turn]].open = True
        while lane.turn():
            for before, after in pairwise(units):
                assert before.through[: len(after.through)] == after.through
    assert left == list(range(number))
    assert all(unit.through == left for unit in units)
    assert not len(lane)


def test_a_later_step_goes_as_far_as_the_one_before_it() -> None:
    units = [Unit(open=True), Unit(open=True), Unit(), Unit(open=True)]
    lane = Lane(units, lambda passage: None)
    for number in range(2):
        lane.add(Passage(number, (), ()))
    while lane.turn():
        pass
    assert [passage.at for passage in lane] == [2, 2]
    assert [unit.through for unit in units] == [[0, 1], [0, 1], [], []]
    assert lane.parked == 1  # the second waits for the first, not for a unit


def test_a_lane_without_operations_passes_on() -> None:
    left: list[int] = []
    lane = Lane([], lambda passage: left.append(passage.number))
    lane.add(Passage(7, (), ()))
    assert lane.turn()
    assert left == [7]
    assert not lane.turn()
