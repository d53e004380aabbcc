"""The rules of who pays to whom: one by one, and on ten thousand random fleets."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from forebay_operator.decide.pressure import AGING, RESIDENCE, Claim, Kind, Stake, Turn, due, payable
from forebay_operator.decide.want import Want, in_order

NOW = 1000.0
WAITS = Claim("b", waiting=True)
GROWS = Claim("b", has=1)


@pytest.mark.parametrize(
    ("claim", "stake", "at"),
    [
        (WAITS, Stake("b", "w", Kind.IDLE), None),
        (GROWS, Stake("o", "w", Kind.IDLE, priority=9, until=NOW), 0.0),
        (WAITS, Stake("o", "w", Kind.LAST, until=NOW), NOW),
        (GROWS, Stake("o", "w", Kind.LAST), None),
        (Claim("b", priority=1, has=1), Stake("o", "w", Kind.LAST), None),
        (Claim("b", priority=1, waiting=True), Stake("o", "w", Kind.LAST, until=NOW), 0.0),
        (Claim("b", priority=1, waiting=True), Stake("o", "w", Kind.LAST, shield=NOW), NOW),
        (WAITS, Stake("o", "w", Kind.LAST, priority=1), None),
        (WAITS, Stake("o", "w", Kind.SURPLUS, priority=1, left=5), None),
        (Claim("b", waiting=True, lifted=True), Stake("o", "w", Kind.LAST, priority=1, until=NOW), NOW),
        (Claim("b", waiting=True, lifted=True), Stake("o", "w", Kind.SURPLUS, priority=1, left=1), 0.0),
        (GROWS, Stake("o", "w", Kind.SURPLUS, left=1), None),
        (GROWS, Stake("o", "w", Kind.SURPLUS, left=2, until=NOW), NOW),
        (Claim("b", priority=1, has=7), Stake("o", "w", Kind.SURPLUS, left=1, until=NOW), 0.0),
        (Claim("b", waiting=True, rests=NOW), Stake("o", "w", Kind.LAST), NOW),
        (Claim("b", priority=1, waiting=True, rests=NOW), Stake("o", "w", Kind.LAST), 0.0),
    ],
)
def test_who_pays_to_whom_and_from_when(claim: Claim, stake: Stake, at: float | None) -> None:
    assert due(claim, stake) == at


def test_who_pays_first() -> None:
    stakes = [
        Stake("z", "w0", Kind.LAST, asked=True, until=1.0),
        Stake("y", "w0", Kind.LAST, asked=True, until=2.0),
        Stake("x", "w0", Kind.LAST, asked=False, until=3.0),
        Stake("l", "w0", Kind.LAST, asked=True, priority=-1, until=4.0),
        Stake("s", "w1", Kind.SURPLUS, left=2),
        Stake("s", "w2", Kind.SURPLUS, left=3),
        Stake("t", "w3", Kind.SURPLUS, left=2, priority=-1),
        Stake("i", "w4", Kind.IDLE, score=1.0),
        Stake("j", "w4", Kind.IDLE, score=2.0),
        Stake("n", "w4", Kind.LAST, until=NOW + 1),
    ]
    first = [(stake.backbone, stake.worker) for stake in payable(WAITS, stakes, NOW)]
    assert first == [
        ("j", "w4"),
        ("i", "w4"),
        ("t", "w3"),
        ("s", "w2"),
        ("s", "w1"),
        ("x", "w0"),
        ("l", "w0"),
        ("z", "w0"),
        ("y", "w0"),
    ]


def test_room_is_made_first_for_who_waits_too_long_then_by_priority_then_for_who_has_nothing() -> None:
    wanted = [
        Want("kept", desired=1, priority=9),
        Want("warm", desired=1, floor=1),
        Want("grows", desired=2, pressing=True, oldest=1.0),
        Want("waits", desired=1, pressing=True, oldest=900.0),
        Want("waits longer", desired=1, pressing=True, oldest=950.0),
        Want("high", desired=1, pressing=True, priority=1),
        Want("late", desired=1, pressing=True, priority=-5),
    ]
    turns = {
        "waits": Turn(lacking=NOW - 10),
        "waits longer": Turn(lacking=NOW - 20),
        "late": Turn(lacking=NOW - AGING),
        "kept": Turn(lacking=1.0),
    }
    order = [want.backbone for want in in_order(wanted, turns, NOW)]
    assert order == ["late", "high", "waits longer", "waits", "grows", "warm", "kept"]


@dataclass
class Function:
    priority: int
    desired: int
    lacking: float = 0.0
    lifted: float = 0.0
    paid: float = 0.0
    has: dict[int, float] = field(default_factory=dict)
    """Devices, and since when."""


@dataclass
class Fleet:
    """Devices for one replica each, where what is decided is so at once."""

    chance: Random
    devices: int
    functions: dict[str, Function]
    now: float = NOW
    moves: int = 0

    def step(self) -> None:
        self.now += self.chance.choice([20, 30, 40])
        for name in self.order():
            function = self.functions[name]
            if not function.has:
                function.lacking = function.lacking or self.now
            while len(function.has) < function.desired and (device := self.device(name)) is not None:
                if self.claim(name).lifted:
                    function.lifted = self.now
                function.lacking = 0.0
                function.has[device] = self.now

    def order(self) -> list[str]:
        wanted = [
            Want(n, f.desired, pressing=True, priority=f.priority) for n, f in self.functions.items() if f.desired
        ]
        turns = {name: Turn(lacking=function.lacking) for name, function in self.functions.items()}
        return [want.backbone for want in in_order(wanted, turns, self.now)]

    def claim(self, name: str) -> Claim:
        function = self.functions[name]
        late = Turn(lacking=function.lacking).late(self.now)
        rests = function.paid + RESIDENCE if function.paid else 0.0
        return Claim(name, function.priority, function.lacking > 0, late, len(function.has), rests)

    def device(self, name: str) -> int | None:
        taken = {device for function in self.functions.values() for device in function.has}
        free = [device for device in range(self.devices) if device not in taken]
        if free:
            return free[0]
        claim = self.claim(name)
        paying = payable(claim, [s for other in self.functions for s in self.stakes(other)], self.now)
        return self.pay(claim, paying[0]) if paying else None

    def stakes(self, name: str) -> list[Stake]:
        function, found = self.functions[name], []
        shield = function.lifted + RESIDENCE if function.lifted else 0.0
        for place, (device, since) in enumerate(sorted(function.has.items())):
            left = len(function.has) - place - 1
            kind = (Kind.SURPLUS if left else Kind.LAST) if function.desired else Kind.IDLE
            until = since + RESIDENCE
            found.append(
                Stake(name, str(device), kind, function.priority, left, until, shield, place=place, asked=True)
            )
        return found

    def pay(self, claim: Claim, stake: Stake) -> int:
        payer = self.functions[stake.backbone]
        since = payer.has.pop(int(stake.worker))
        if payer.desired:
            self.moves += 1
            early = self.now < since + RESIDENCE
            assert not early or claim.priority > payer.priority, "taken before its time"
            assert self.now >= stake.shield, "taken from one whose turn had come at last"
            assert payer.has or claim.waiting, "the last one is for requests that nothing serves"
            payer.paid = self.now
        return int(stake.worker)


def random_fleet(seed: int) -> Fleet:
    chance = Random(seed)
    names = "abcd"[: chance.randint(2, 4)]
    priorities = chance.choice([[0], [0, 0, 5], [-1, 0, 1]])
    functions = {name: Function(chance.choice(priorities), chance.randint(1, 3)) for name in names}
    return Fleet(chance, chance.randint(1, 3), functions)


@pytest.mark.sweep
def test_nobody_starves_and_nothing_goes_to_and_fro_in_ten_thousand_random_fleets() -> None:
    for seed in range(10_000):
        fleet = random_fleet(seed)
        longest = AGING + len(fleet.functions) * (RESIDENCE + 40)
        for turn in range(15):
            if turn == 5:
                asked = fleet.chance.choice(list(fleet.functions.values()))
                asked.desired = fleet.chance.randint(0, 3)
                asked.lacking = asked.lacking if asked.desired else 0.0
            fleet.step()
            assert sum(len(function.has) for function in fleet.functions.values()) <= fleet.devices
            for function in fleet.functions.values():
                assert not function.lacking or fleet.now - function.lacking < longest, seed


def test_with_room_for_everybody_shares_come_to_rest_and_are_fair() -> None:
    for seed in range(1_000):
        chance = Random(seed)
        functions = {name: Function(0, chance.randint(1, 4)) for name in "abc"}
        fleet = Fleet(chance, chance.randint(3, 8), functions)
        for _ in range(20):
            fleet.step()
        moved = fleet.moves
        for _ in range(10):
            fleet.step()
        assert fleet.moves == moved, seed
        most = max(len(function.has) for function in functions.values())
        for function in functions.values():
            assert len(function.has) >= min(function.desired, most - 1), seed
