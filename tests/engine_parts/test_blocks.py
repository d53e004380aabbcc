"""The block pool keeps its promises under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay_worker.engine.blocks import BlockPool, IntegrityError

BLOCKS, SIZE = 12, 4

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=BLOCKS * SIZE + SIZE)  # two tokens: prefixes meet often


class Pool(RuleBasedStateMachine):
    """A model of what each slot holds: whoever reads a cached prefix must find the very tokens it asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, SIZE)
        self.held: dict[int, tuple[str, list[int]]] = {}
        self.written: dict[int, tuple[str, tuple[int, ...]]] = {}  # block ▸ salt and all tokens up to its end
        self.next = 0

    @rule(tokens=tokens, salt=st.sampled_from(["", "adapter"]))
    def admit(self, tokens: list[int], salt: str) -> None:
        free = self.pool.free
        cached = self.pool.admit(self.next, tokens, salt)
        if cached is None:
            assert self.pool.free == free
            assert -(-len(tokens) // SIZE) > free or len(self.held)
            return
        assert cached < len(tokens)
        assert cached % SIZE == 0
        table = self.pool.table(self.next)
        assert len(table) == -(-len(tokens) // SIZE)
        for index in range(cached // SIZE):
            assert self.written[table[index]] == (salt, tuple(tokens[: (index + 1) * SIZE]))
        self.held[self.next] = (salt, list(tokens))
        self.next += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def grow(self, data: st.DataObject, more: list[int]) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.held)))
        _, own = self.held[sequence]
        before, free = self.pool.table(sequence), self.pool.free
        if self.pool.grow(sequence, len(own) + len(more)):
            own += more
            assert self.pool.table(sequence)[: len(before)] == before
            assert len(self.pool.table(sequence)) == -(-len(own) // SIZE)
        else:
            assert (self.pool.table(sequence), self.pool.free) == (before, free)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.held)))
        salt, own = self.held[sequence]
        length = data.draw(st.integers(0, len(own)))
        table = self.pool.table(sequence)
        for index in range(length // SIZE):
            self.written[table[index]] = (salt, tuple(own[: (index + 1) * SIZE]))
        self.pool.commit(sequence, own[:length])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[sequence]
        self.pool.release(sequence)

    @invariant()
    def adds_up(self) -> None:
        self.pool.check()
        tables = [self.pool.table(sequence) for sequence in self.held]
        assert all(len(set(table)) == len(table) for table in tables)
        assert self.pool.free == BLOCKS - len({block for table in tables for block in table})


Pool.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestPool = Pool.TestCase


def test_sequences_lie_in_one_piece_and_have_room_to_grow() -> None:
    pool = BlockPool(64, 16)
    for sequence in range(4):
        pool.admit(sequence, [sequence] * 40)
    for length in range(41, 130):
        assert all(pool.grow(sequence, length) for sequence in range(4))
    for sequence in range(4):
        table = pool.table(sequence)
        assert table == tuple(range(table[0], table[0] + len(table)))


def test_idle_blocks_leave_least_recently_used_first_and_a_tail_before_its_prefix() -> None:
    pool = BlockPool(40, 2)
    for sequence, token in enumerate((1, 2)):
        pool.admit(sequence, [token] * 40)
        pool.commit(sequence, [token] * 40)
        pool.release(sequence)
    assert pool.free == 40
    assert pool.admit(3, [3] * 4) == 0
    pool.release(3)
    assert pool.admit(4, [1] * 11) == 8, "sixteen of the twenty idle blocks left: those from its end"
    pool.release(4)
    assert pool.admit(5, [2] * 41) == 40, "the younger answer is whole"


def test_salts_do_not_share() -> None:
    pool = BlockPool(8, 2)
    pool.admit(0, [1, 2, 3, 4, 5], salt="a")
    pool.commit(0, [1, 2, 3, 4])
    assert pool.admit(1, [1, 2, 3, 4, 5], salt="b") == 0
    assert pool.admit(2, [1, 2, 3, 4], salt="a") == 2, "the last token is always left to compute"


def test_wrong_use_is_told() -> None:
    pool = BlockPool(4, 2)
    pool.admit(0, [1, 2])
    with pytest.raises(ValueError, match="already admitted"):
        pool.admit(0, [1])
    with pytest.raises(ValueError, match="no tokens"):
        pool.admit(1, [])
    with pytest.raises(ValueError, match="committed"):
        pool.commit(0, [1, 2, 3, 4])
    with pytest.raises(KeyError):
        pool.release(7)
    with pytest.raises(ValueError, match="at least 1"):
        BlockPool(0, 16)


def test_books_that_do_not_add_up_are_found() -> None:
    pool = BlockPool(4, 2)
    pool.admit(0, [1, 2])
    pool._holders[pool.table(0)[0]] = 2
    with pytest.raises(IntegrityError, match=r"4 blocks, 1 held by 1 sequences.*holders are counted"):
        pool.check()
