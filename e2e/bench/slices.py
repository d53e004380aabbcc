"""What the bench of traces plays: slices of the published shapes, scaled to what this machine can serve.

May not live here: asking anybody, and the simulator's fleet.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.models import Kind
from sim.traces import Asked, Load

from sim import traces

FUNCTIONS = 3
PROMPT, ANSWER = 48.0, 12.0
"""Tokens that prompts and answers have in the mean once scaled."""
LONGEST = (768, 96)
"""Tokens of a scaled prompt and answer at most: the model's context is short."""
BUSY = 0.25
"""Share of the time for which the processors would compute if requests came one after the other."""


@dataclass(frozen=True)
class Slice:
    """``rate``, ``prompt``, ``answer``: by how much the published ones were multiplied."""

    name: str
    requests: tuple[tuple[Asked, ...], ...]
    rate: float
    prompt: float
    answer: float

    @property
    def count(self) -> int:
        return sum(map(len, self.requests))

    def loads(self, size: str) -> tuple[Load, ...]:
        return tuple(Load(f"f{i}", size, str(i), recorded=asked) for i, asked in enumerate(self.requests))

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.count} requests; rate × {self.rate:.3g}, prompts × {self.prompt:.3g}, "
            f"answers × {self.answer:.3g}"
        )


def cut(name: str, seconds: float, seed: int, kind: Kind) -> Slice:
    """The first ``seconds`` of three functions of that shape, as much as ``kind`` can compute here."""
    if name == traces.FUNCTIONS:
        return _many(seconds, seed)
    shape = traces.SHAPES[name]
    prompt, answer = PROMPT / shape.prompts.mean(), ANSWER / shape.answers.mean()
    work = kind.prefill(round(PROMPT)) + ANSWER * kind.step(1, 1)
    rate = min(BUSY / (FUNCTIONS * work * shape.rate), 1.0)
    loads = traces.services(name, FUNCTIONS, seed, scale=rate)
    return Slice(name, tuple(_scaled(load, seconds, prompt, answer) for load in loads), rate, prompt, answer)


def _many(seconds: float, seed: int) -> Slice:
    """Of many functions the first three that are called within the slice, though seldom."""
    called = [load for load in traces.many(60, seed) if 1 <= len(load.until(seconds)) <= seconds / 10]
    # Both kinds of lengths that these functions have are longer than this: one factor for all.
    prompt, answer = PROMPT / 1600, ANSWER / 120
    chosen = tuple(_scaled(load, seconds, prompt, answer) for load in called[:FUNCTIONS])
    return Slice(traces.FUNCTIONS, chosen, 1.0, prompt, answer)


def _scaled(load: Load, seconds: float, prompt: float, answer: float) -> tuple[Asked, ...]:
    return tuple(
        (at, min(max(round(tokens * prompt), 4), LONGEST[0]), min(max(round(written * answer), 1), LONGEST[1]))
        for at, tokens, written in load.until(seconds)
    )
