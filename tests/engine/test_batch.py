"""Who runs next, in integers: nothing over budget, nothing out of order, nothing forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_worker.engine.batch import Batch, Event, Limits, Phase, Sequence
from forebay_worker.engine.blocks import BlockPool

BLOCK_TOKENS = 4


def sequence(number: int, prompt: int) -> Sequence:
    return Sequence(number, [number * 1000 + place for place in range(prompt)], (number, 0))


def batch(blocks: int = 64, budget: int = 8, flight: int = 1) -> Batch:
    made = Batch(BlockPool(blocks, BLOCK_TOKENS), Limits(budget, flight, front_budget=budget, front_flight=flight))
    made.returned = True
    return made


def test_decoding_goes_before_prefill() -> None:
    made = batch()
    first, second = sequence(1, 3), sequence(2, 20)
    made.add(first)
    step = made.next()
    assert step is not None
    made.came_back(step.number)
    made.drawn(first, 5)
    made.add(second)
    step = made.next()
    assert step is not None
    assert [(part.sequence.number, part.start, part.length, part.samples) for part in step.slices] == [
        (1, 3, 1, True),
        (2, 0, 7, False),
    ]
    assert step.tokens == [5, *second.tokens[:7]]


def test_chunks_of_one_prompt_may_follow_each_other() -> None:
    made = batch(budget=8, flight=2)
    made.add(sequence(1, 20))
    steps = [made.next(), made.next(), made.next()]
    assert [[(part.start, part.length) for part in step.slices] for step in steps if step] == [[(0, 8)], [(8, 8)]]
    assert made.most_flying == 2


def test_until_the_first_step_is_back_the_front_has_its_own_limits() -> None:
    made = Batch(BlockPool(2048, BLOCK_TOKENS), Limits(8, 1))
    for number, prompt in enumerate((5000, 10, 10, 10, 10), start=1):
        made.add(sequence(number, prompt))
    steps = list(iter(made.next, None))
    assert [[part.length for part in step.slices] for step in steps] == [[4096], [904, 10, 10, 10, 10]]
    made.came_back(0)
    assert made.next() is None, "one step on its way is enough from now on"


def test_the_youngest_gives_way_and_comes_back_in_its_place() -> None:
    made = batch(blocks=4, budget=100)
    sequences = [sequence(number, 7) for number in (1, 2)]
    for each in sequences:
        made.add(each)
    waits = sequence(3, 7)
    made.add(waits)
    for turn in range(2):
        step = made.next()
        assert step is not None
        made.came_back(step.number)
        for part in step.slices:
            made.drawn(part.sequence, turn)
    assert made.preemptions == 0
    step = made.next()
    assert step is not None
    assert [part.sequence.number for part in step.slices] == [1]
    assert sequences[1].phase is Phase.PREEMPTED
    assert made.waiting == [sequences[1], waits]
    assert sequences[1].tokens[-2:] == [0, 1]


@settings(max_examples=150)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8),
    blocks=st.integers(11, 30),
    budget=st.integers(1, 40),
    flight=st.integers(1, 4),
    leave=st.integers(0, 40),
)
def test_everyone_gets_exactly_their_tokens(
    prompts: list[tuple[int, int]], blocks: int, budget: int, flight: int, leave: int
) -> None:
    """A model of the stages: a step reads what earlier steps wrote, and a token is drawn from its whole prefix."""
    made = batch(blocks, budget, flight)
    wanted, sequences = {}, [sequence(number, prompt) for number, (prompt, _) in enumerate(prompts)]
    written: dict[int, tuple[int, int]] = {}  # slot ▸ (sequence's first token, position)
    for each, (prompt, answer) in zip(sequences, prompts, strict=True):
        wanted[each.number] = prompt + answer
        made.add(each)
    turns = 0
    while made.running or made.waiting:
        turns += 1
        assert turns < 5000, "no progress"
        if turns == leave and made.running:
            made.end(made.running[0], Event.CANCEL)
        for step in iter(made.next, None):
            assert sum(part.length for part in step.slices) <= budget
            assert len(made.flying) <= flight
            for part in step.slices:
                for place in range(part.start, part.start + part.length):
                    slot = part.blocks[place // BLOCK_TOKENS] * BLOCK_TOKENS + place % BLOCK_TOKENS
                    written[slot] = (part.sequence.tokens[0], place)
                for place in range(part.start + part.length):
                    slot = part.blocks[place // BLOCK_TOKENS] * BLOCK_TOKENS + place % BLOCK_TOKENS
                    assert written[slot] == (part.sequence.tokens[0], place)
        if not made.flying:
            continue
        step = made.came_back(min(made.flying))
        for part in step.slices:
            if part.samples and part.valid:
                made.drawn(part.sequence, len(part.sequence.tokens))
                if len(part.sequence.tokens) == wanted[part.sequence.number]:
                    made.end(part.sequence, Event.FINISH)
    pool = made.blocks
    assert isinstance(pool, BlockPool)
    pool.check()
    assert pool.free == pool.blocks
    assert {each.phase for each in sequences} <= {Phase.FINISHED, Phase.CANCELLED}
    assert sum(each.phase is Phase.CANCELLED for each in sequences) <= 1
