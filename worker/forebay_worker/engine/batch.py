"""Who runs next at a head: integers only, no tensors, no clock.

A sequence is one choice of one request. It waits until the block pool has room for all it has to compute, is prefilled
in chunks under a token budget, and then grows by one token per step; with no block left the youngest running sequence
gives its blocks back and waits to be computed again, output included.

Blocks are given back at once, also while a step that writes to them is on its way: steps of a pipeline keep their order
at every stage, so whoever gets the blocks next writes to them later.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence as Run
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from forebay_worker.states import Table


class Blocks(Protocol):
    """What the batch needs of ``kv.BlockPool``."""

    def admit(self, sequence: int, tokens: Run[int], salt: str = "") -> int | None: ...
    def grow(self, sequence: int, length: int) -> bool: ...
    def table(self, sequence: int) -> tuple[int, ...]: ...
    def commit(self, sequence: int, tokens: Run[int]) -> None: ...
    def release(self, sequence: int) -> None: ...


class Phase(StrEnum):
    WAITING = "Waiting"
    PREFILLING = "Prefilling"
    DECODING = "Decoding"
    PREEMPTED = "Preempted"
    FINISHED = "Finished"
    CANCELLED = "Cancelled"
    LOST = "Lost"


class Event(StrEnum):
    ADMIT = "admit"
    TOKEN = "token"
    PREEMPT = "preempt"
    FINISH = "finish"
    CANCEL = "cancel"
    LOSE = "lose"


REQUEST = Table[Phase, Event](
    "request",
    {
        (Phase.WAITING, Event.ADMIT): Phase.PREFILLING,
        (Phase.WAITING, Event.CANCEL): Phase.CANCELLED,
        (Phase.WAITING, Event.LOSE): Phase.LOST,
        (Phase.PREFILLING, Event.TOKEN): Phase.DECODING,
        (Phase.PREFILLING, Event.PREEMPT): Phase.PREEMPTED,
        (Phase.PREFILLING, Event.CANCEL): Phase.CANCELLED,
        (Phase.PREFILLING, Event.LOSE): Phase.LOST,
        (Phase.DECODING, Event.TOKEN): Phase.DECODING,
        (Phase.DECODING, Event.PREEMPT): Phase.PREEMPTED,
        (Phase.DECODING, Event.FINISH): Phase.FINISHED,
        (Phase.DECODING, Event.CANCEL): Phase.CANCELLED,
        (Phase.DECODING, Event.LOSE): Phase.LOST,
        (Phase.PREEMPTED, Event.ADMIT): Phase.PREFILLING,
        (Phase.PREEMPTED, Event.CANCEL): Phase.CANCELLED,
        (Phase.PREEMPTED, Event.LOSE): Phase.LOST,
    },
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be on its way at once.

    ``budget`` tokens a step and ``flight`` steps; until the first step has come back ``front_budget`` and
    ``front_flight``: weights are still landing then, and a long prompt is to follow them in one go while later arrivals
    are not held behind it.
    """

    budget: int
    flight: int
    front_budget: int = 4096
    front_flight: int = 4


@dataclass(eq=False, slots=True)
class Sequence:
    """One choice: ``tokens`` are prompt and output so far; ``sent`` of them are computed or on their way."""

    number: int
    tokens: list[int]
    arrival: tuple[int, int]  # (request, choice), in the order they came
    salt: str = ""
    phase: Phase = Phase.WAITING
    sent: int = 0
    cached: int = 0  # tokens that were in the cache when it was first admitted
    generation: int = 0  # grows by preemption: what was on its way then is void

    @property
    def left(self) -> int:
        return len(self.tokens) - self.sent

    def happen(self, event: Event) -> None:
        self.phase = REQUEST.next(self.phase, event)


@dataclass(frozen=True, slots=True)
class Slice:
    """``length`` tokens of a sequence from position ``start``; ``samples`` when the next token is to be drawn."""

    sequence: Sequence
    generation: int
    start: int
    length: int
    blocks: tuple[int, ...]
    samples: bool

    @property
    def valid(self) -> bool:
        """Whether the sequence still waits for this slice: not ended and not preempted since."""
        return self.generation == self.sequence.generation and self.sequence.phase in (Phase.PREFILLING, Phase.DECODING)


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    slices: tuple[Slice, ...]

    @property
    def tokens(self) -> list[int]:
        """Input ids, all slices one after another."""
        return [token for part in self.slices for token in part.sequence.tokens[part.start : part.start + part.length]]


@dataclass
class Batch:
    blocks: Blocks
    limits: Limits
    waiting: list[Sequence] = field(default_factory=list)  # by arrival
    running: list[Sequence] = field(default_factory=list)  # by arrival
    flying: dict[int, Step] = field(default_factory=dict)
    steps: int = 0  # formed so far
    returned: bool = False  # one step has come back
    preemptions: int = 0
    hits: int = 0  # tokens that were in the cache at admission
    most_flying: int = 0

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_arrival)

    def next(self) -> Step | None:
        """The next step, or None when nothing is to be done or enough is on its way."""
        flight = self.limits.flight if self.returned else max(self.limits.flight, self.limits.front_flight)
        if len(self.flying) >= flight:
            return None
        budget = self.limits.budget if self.returned else max(self.limits.budget, self.limits.front_budget)
        preemptions = self.preemptions
        slices = self._decodes(budget)
        # Whoever was just preempted does not come straight back for the blocks it gave.
        slices += self._prefills(budget - len(slices), admitting=self.preemptions == preemptions)
        slices = [part for part in slices if part.valid]
        if not slices:
            return None
        step = Step(self.steps, tuple(slices))
        self.steps += 1
        self.flying[step.number] = step
        self.most_flying = max(self.most_flying, len(self.flying))
        return step

    def came_back(self, number: int) -> Step:
        """Step ``number`` is computed at every stage: what it computed may be shared from now on."""
        step = self.flying.pop(number)
        self.returned = True
        for part in step.slices:
            if part.valid:
                self.blocks.commit(part.sequence.number, part.sequence.tokens[: part.start + part.length])
        return step

    def drawn(self, sequence: Sequence, token: int) -> None:
        """The next token of ``sequence`` is known."""
        sequence.happen(Event.TOKEN)
        sequence.tokens.append(token)

    def end(self, sequence: Sequence, event: Event) -> None:
        """``sequence`` is finished, cancelled or lost; its blocks are free when this returns."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self.blocks.release(sequence.number)
        sequence.happen(event)

    def _decodes(self, budget: int) -> list[Slice]:
        """One token of each sequence that waits for nothing, oldest first.

        With several steps in flight each takes its share, or one step would hold them all and the others be empty.
        """
        share = min(budget, -(-len(self.running) // self.limits.flight))
        slices: list[Slice] = []
        for sequence in tuple(self.running):
            if len(slices) == share:
                break
            if sequence.phase is Phase.DECODING and sequence.left == 1 and self._grow(sequence):
                slices.append(self._take(sequence, 1))
        return slices

    def _prefills(self, budget: int, admitting: bool) -> list[Slice]:
        slices: list[Slice] = []
        for sequence in self.running:
            if budget and sequence.phase is Phase.PREFILLING and sequence.left:
                slices.append(self._take(sequence, min(budget, sequence.left)))
                budget -= slices[-1].length
        while admitting and budget and self.waiting and self._admit(self.waiting[0]):
            slices.append(self._take(self.running[-1], min(budget, self.running[-1].left)))
            budget -= slices[-1].length
        return slices

    def _admit(self, sequence: Sequence) -> bool:
        cached = self.blocks.admit(sequence.number, sequence.tokens, sequence.salt)
        if cached is None:
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.happen(Event.ADMIT)
        sequence.sent = cached
        if not sequence.generation:
            sequence.cached = cached
        self.hits += cached
        return True

    def _grow(self, sequence: Sequence) -> bool:
        """Room for the sequence's newest token; False when the sequence itself had to give way."""
        while not self.blocks.grow(sequence.number, len(sequence.tokens)):
            youngest = max(self.running, key=_arrival)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.number)
        self.running.remove(sequence)
        sequence.happen(Event.PREEMPT)
        sequence.generation += 1
        sequence.sent = 0
        self.preemptions += 1
        self.add(sequence)

    def _take(self, sequence: Sequence, length: int) -> Slice:
        start = sequence.sent
        sequence.sent += length
        table = self.blocks.table(sequence.number)
        return Slice(sequence, sequence.generation, start, length, table, samples=sequence.left == 0)


def _arrival(sequence: Sequence) -> tuple[int, int]:
    return sequence.arrival
