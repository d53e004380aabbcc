"""The way of steps through the units of one stage: in order, parked where something is missing, never overtaking.

    units     1    2    3    4    5
    step 7    ■    ■    ■    □ ◀── parked: unit 4 has not landed
    step 8    ■    ■ ◀──────────── may run up to where step 7 stands, not past it

May not live here: threads, sockets. A lane is turned by the device thread, one operation at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from prometheus_client import Counter

from forebay_wire.v1 import stage_pb2
from forebay_worker.engine import batch
from forebay_worker.engine.attention import Step as Context


@dataclass(eq=False, slots=True)
class Passage:
    """One step at one stage.

    ``hidden`` is [1, tokens, hidden size] on the device, None until the tokens are embedded. ``drawn`` are the packed
    positions whose logits are wanted; only the head knows them.
    """

    number: int
    slices: Sequence[batch.Slice | stage_pb2.Slice]
    tokens: Sequence[int]
    hidden: torch.Tensor | None = None
    drawn: Sequence[int] = ()
    logits: torch.Tensor | None = None  # [drawn, vocabulary], float32
    context: Context | None = None
    at: int = 0  # operations done
    parked: bool = False


parked_total = Counter("forebay_steps_parked_total", "Steps that had to wait for weights or embedding rows")


class Operation(Protocol):
    """What a step does at one unit. Each is run once per step, by the device thread."""

    def ready(self, passage: Passage) -> bool:
        """Whether nothing is missing. Cheap: asked again whenever something arrived."""

    def run(self, passage: Passage) -> None: ...


class Lane:
    """Operations that every step goes through in order; ``done`` gets a step that went through all."""

    def __init__(self, operations: Sequence[Operation], done: Callable[[Passage], None]) -> None:
        self._operations = tuple(operations)
        self._done = done
        self._steps: deque[Passage] = deque()
        self.parked = 0  # steps that had to wait for something, ever

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._steps)

    def add(self, passage: Passage) -> None:
        self._steps.append(passage)

    def turn(self) -> bool:
        """Run one operation of the foremost step that can run. False when none can."""
        front = len(self._operations)  # a step may stand there at most
        for passage in self._steps:
            if passage.at == len(self._operations):
                break
            if passage.at < front and self._operations[passage.at].ready(passage):
                self._operations[passage.at].run(passage)
                passage.at += 1
                passage.parked = False
                break
            if passage.at < front and not passage.parked:
                passage.parked = True
                self.parked += 1
                parked_total.inc()
            front = passage.at
        else:
            return False
        if self._steps[0].at == len(self._operations):
            self._done(self._steps.popleft())
        return True
