"""The bench of traces, as far as it needs no running system: what it plays, and the constants it fits."""

from __future__ import annotations

import pytest
from calibrate import fitted
from sim.models import Kind, made
from slices import ANSWER, BUSY, FUNCTIONS, LONGEST, PROMPT, cut

from forebay_operator.decide.seen import Costs
from sim import traces

# A step of one token takes 30 ms, a prompt token 5 ms.
SLOW = Kind(made("b", layers=10, layer_bytes=100, head_bytes=100), Costs(layer=((1, 0.003), (256, 0.128))), budget=256)


@pytest.mark.parametrize("name", traces.SHAPES)
def test_a_slice_is_as_much_as_the_machine_can_compute(name: str) -> None:
    part = cut(name, 1200.0, 1, SLOW)
    asked = [request for requests in part.requests for request in requests]
    assert len(part.requests) == FUNCTIONS
    work = sum(SLOW.prefill(prompt) + answer * SLOW.step(1, 1) for _, prompt, answer in asked)
    assert work / 1200 == pytest.approx(BUSY, rel=0.6)
    assert sum(prompt for _, prompt, _ in asked) / len(asked) == pytest.approx(PROMPT, rel=0.35)
    assert sum(answer for *_, answer in asked) / len(asked) == pytest.approx(ANSWER, rel=0.35)
    assert max(prompt for _, prompt, _ in asked) <= LONGEST[0]
    assert part == cut(name, 1200.0, 1, SLOW)


def test_functions_of_a_slice_are_called_within_it() -> None:
    part = cut(traces.FUNCTIONS, 600.0, 1, SLOW)
    assert [1 <= len(requests) <= 60 for requests in part.requests] == [True] * FUNCTIONS


def test_what_was_measured_is_what_the_model_then_takes() -> None:
    """Steps of 30 ms and 5 ms more for each prompt token, and 20 ms that every request takes besides."""

    def seconds(tokens: int) -> float:
        return 0.03 + 0.005 * (tokens - 1)

    steps = {batch: seconds(batch) for batch in (1, 4, 8)}
    firsts = {prompt: 0.02 + seconds(prompt) for prompt in (8, 64, 256)}
    found = fitted(SLOW.model, firsts, steps, start=0.1, link=5e7, loading=(0.06, 0.02 + 1.5 * seconds(64)))
    assert found.overhead == pytest.approx(0.02)
    assert found.staged == pytest.approx(1.75)
    for tokens in (1, 4, 8, 16, 40, 64, 200, 256, 400):
        assert found.kind.step(tokens, 1) == pytest.approx(seconds(tokens))
    assert "ms a step of one token" in str(found)


def test_a_noisy_machine_gives_no_nonsense() -> None:
    firsts, steps = {8: 0.01, 64: 0.4, 256: 0.3}, {1: 0.03, 4: 0.02, 8: 0.05}
    found = fitted(SLOW.model, firsts, steps, start=0.1, link=5e7, loading=(0.02, 0.3))
    assert (found.overhead, found.staged) == (0.0, 1.0)
    taken = [found.kind.step(tokens, 1) for tokens in (1, 4, 8, 16, 64, 256, 512)]
    assert taken == sorted(taken)
    assert min(taken) > 0
