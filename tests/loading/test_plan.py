"""Which bytes next: orders, urgency, and cutting, all pure."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_worker.load.checkpoint import ITEM_BYTES, TensorSlice
from forebay_worker.load.plan import Phase, Pick, Queue, pieces


def drain(queue: Queue, count: int = 1000) -> list[tuple[str, int]]:
    """Load whole units until nothing is left, or ``count`` of them."""
    done: list[tuple[str, int]] = []
    while len(done) < count and (pick := queue.next()):
        queue.begin(pick)
        queue.land(pick)
        done.append(pick)
    return done


def test_units_come_in_the_order_told() -> None:
    queue = Queue()
    queue.hold("a", (3, 1, 2, 0), 0)
    assert drain(queue) == [("a", 3), ("a", 1), ("a", 2), ("a", 0)]


def test_urgent_units_of_any_backbone_go_before_background() -> None:
    queue = Queue()
    queue.hold("a", (0, 1, 2), 1)
    queue.hold("b", (5, 6), 1)
    assert drain(queue) == [("a", 0), ("b", 5), ("a", 1), ("a", 2), ("b", 6)]


def test_an_urgent_unit_overtakes_a_background_unit_that_is_begun() -> None:
    queue = Queue()
    queue.hold("a", (0, 1), 0)
    first = queue.next()
    assert first
    queue.begin(first)
    queue.hold("b", (7,), 1)
    assert queue.next() == Pick("b", 7)
    assert drain(queue, 1) == [("b", 7)]
    assert queue.next() == first, "what was begun goes on"


def test_a_backbone_that_waits_for_its_bytes_is_passed_over() -> None:
    queue = Queue()
    queue.hold("a", [1, 2], urgent=2)
    queue.hold("b", [5], urgent=0)
    first = queue.next()
    assert first == Pick("a", 1)
    queue.begin(first)
    assert queue.next({"a"}) == Pick("b", 5)
    assert queue.next({"a", "b"}) is None
    assert queue.next() == first


def test_a_new_order_works_at_once_and_begun_units_are_finished() -> None:
    queue = Queue()
    queue.hold("a", (0, 1, 2, 3), 0)
    assert drain(queue, 1) == [("a", 0)]
    begun = queue.next()
    assert begun == Pick("a", 1)
    queue.begin(begun)
    queue.hold("a", (3, 0), 0)
    assert queue.next() == begun
    queue.land(begun)
    assert drain(queue) == [("a", 3)]
    assert queue.phases("a") == {3: Phase.RESIDENT, 0: Phase.RESIDENT, 1: Phase.RESIDENT}


def test_a_unit_that_landed_is_not_loaded_again_until_forgotten() -> None:
    queue = Queue()
    queue.hold("a", (0, 1), 0)
    drain(queue)
    queue.hold("a", (1, 0), 2)
    assert queue.next() is None
    assert queue.forget("a", {1}) == frozenset()
    queue.hold("a", (1, 0), 2)
    assert drain(queue) == [("a", 1)]


def test_forgetting_says_what_was_begun_and_leaves_nothing() -> None:
    queue = Queue()
    queue.hold("a", (0, 1, 2), 2)
    queue.begin(Pick("a", 0))
    assert queue.forget("a", {0}) == {0}
    assert queue.phases("a") == {1: Phase.QUEUED, 2: Phase.QUEUED}
    queue.hold("b", (9,), 1)
    assert drain(queue) == [("a", 1), ("b", 9), ("a", 2)], "one urgent unit is left to a"
    queue.forget("a", None)
    assert queue.backbones == ("b",)


def test_a_stopped_backbone_keeps_what_has_landed() -> None:
    queue = Queue()
    queue.hold("a", (0, 1, 2), 0)
    queue.hold("b", (0,), 0)
    drain(queue, 1)
    queue.begin(Pick("a", 1))
    assert queue.stop("a") == {1}
    assert queue.phases("a") == {0: Phase.RESIDENT}
    assert drain(queue) == [("b", 0)]


orders = st.lists(st.integers(0, 6), unique=True, max_size=7)
moves = st.one_of(
    st.tuples(st.just("hold"), st.sampled_from("ab"), orders, st.integers(0, 7)),
    st.tuples(st.just("forget"), st.sampled_from("ab"), orders, st.just(0)),
    st.tuples(st.just("stop"), st.sampled_from("ab"), st.just([]), st.just(0)),
    st.tuples(st.just("step"), st.just(""), st.just([]), st.just(0)),
)


@settings(max_examples=200)
@given(st.lists(moves, max_size=25))
def test_whatever_is_asked_each_wanted_unit_is_loaded_exactly_once(
    asked: list[tuple[str, str, list[int], int]],
) -> None:
    queue = Queue()
    have: set[tuple[str, int]] = set()
    begun: set[tuple[str, int]] = set()
    wanted: dict[str, set[int]] = {"a": set(), "b": set()}
    for verb, backbone, units, urgent in asked:
        if verb == "hold":
            queue.hold(backbone, units, urgent)
            wanted[backbone] = set(units)
        elif verb == "forget":
            queue.forget(backbone, units)
            wanted[backbone] -= set(units)
            have -= {(backbone, unit) for unit in units}
            begun -= {(backbone, unit) for unit in units}
        elif verb == "stop":
            queue.stop(backbone)
            wanted[backbone] = set()
            begun = {pick for pick in begun if pick[0] != backbone}
        elif pick := queue.next():
            assert pick not in have
            if pick in begun:
                queue.land(pick)
                begun.remove(pick)
                have.add(pick)
            else:
                queue.begin(pick)
                begun.add(pick)
    for pick in begun:
        queue.land(Pick(*pick))
        have.add(pick)
    for pick in drain(queue):
        assert pick not in have
        have.add(pick)
    assert all((backbone, unit) in have for backbone, units in wanted.items() for unit in units)


tensors = st.lists(
    st.tuples(st.sampled_from(["float32", "bfloat16"]), st.integers(0, 40), st.sampled_from([0, 0, 0, 8, 3])),
    max_size=8,
)


@settings(max_examples=200)
@given(tensors, st.integers(1, 64))
def test_pieces_cover_every_byte_once_in_whole_elements(described: list[tuple[str, int, int]], limit: int) -> None:
    at, slices = 10, []
    for number, (dtype, elements, gap) in enumerate(described):
        nbytes = elements * ITEM_BYTES[dtype]
        slices.append(TensorSlice(f"t{number}", Path("f"), at, nbytes, dtype, (elements,)))
        at += nbytes + gap
    seen: dict[int, int] = dict.fromkeys(range(len(slices)), 0)
    for piece in pieces(slices, limit):
        assert piece.nbytes == sum(part.nbytes for part in piece.parts)
        assert piece.nbytes <= max(limit, 4)
        at = piece.offset
        for part in piece.parts:
            tensor = slices[part.tensor]
            assert (part.start, at) == (seen[part.tensor], tensor.offset + part.start)
            assert part.nbytes % ITEM_BYTES[tensor.dtype] == 0
            seen[part.tensor] += part.nbytes
            at += part.nbytes
    assert [seen[number] for number in seen] == [tensor.nbytes for tensor in slices]


def test_adjacent_tensors_are_one_read() -> None:
    slices = [TensorSlice(str(n), Path("f"), 100 + 8 * n, 8, "float32", (2,)) for n in range(5)]
    assert [(piece.offset, piece.nbytes) for piece in pieces(slices, 1 << 20)] == [(100, 40)]
    other = TensorSlice("x", Path("g"), 140, 8, "float32", (2,))
    assert len(list(pieces([*slices, other], 1 << 20))) == 2
