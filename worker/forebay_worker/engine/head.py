"""The requests of one pipeline at its head: taken in, turned into sequences, and their tokens drawn and delivered.

Who runs next is decided in ``batch``. Owned by the device thread; sinks are called on it. May not live here: computing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import structlog
import torch
from prometheus_client import Counter, Histogram

from forebay_worker.engine import batch
from forebay_worker.engine.answer import Answer
from forebay_worker.engine.batch import Batch, Limits, Step
from forebay_worker.engine.blocks import BlockPool, IntegrityError
from forebay_worker.engine.capacity import Capacity
from forebay_worker.engine.request import Accepted, Ended, Event, Refused, Request
from forebay_worker.engine.sample import Choice, choose
from forebay_worker.engine.text import Text

log = structlog.get_logger(__name__)

requests_total = Counter("forebay_generations_total", "Requests at a head by how they ended", ["reason"])
requests_total.labels("finished")  # from the start: a rate sees no rise where there was nothing before
prompt_tokens_total = Counter("forebay_prompt_tokens_total", "Prompt tokens of requests taken in")
output_tokens_total = Counter("forebay_output_tokens_total", "Tokens delivered")
hits_total = Counter("forebay_prefix_hit_tokens_total", "Tokens whose keys and values were in the cache when admitted")
preemptions_total = Counter("forebay_preemptions_total", "Sequences that gave their blocks back, to be replayed")
flight = Histogram(
    "forebay_steps_in_flight", "Steps on their way when one began, itself included", buckets=(1, 2, 3, 4, 8)
)
reader_failures_total = Counter("forebay_reader_failures_total", "Readers of a request that failed when given an event")

Sink = Callable[[Event], None]


class UnknownStep(Exception):
    """A step came back that is not on its way."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request that is not finished."""

    request: Request
    sink: Sink
    answers: list[Answer] = field(default_factory=list)  # unfinished
    held: list[Answer] = field(default_factory=list)  # of them, those that wait for the first to compute the prompt


class Head:
    def __init__(self, text: Text, pool: BlockPool, limits: Limits, capacity: Capacity) -> None:
        self.batch = Batch(pool, limits)
        self.cancelled = 0
        self._text = text
        self._pool = pool
        self._capacity = capacity
        self._open: dict[str, _Open] = {}
        self._answers: dict[batch.Sequence, tuple[_Open, Answer]] = {}
        self._numbers = count(1)
        self._arrivals = count()

    @property
    def asked(self) -> bool:
        """A request is open."""
        return bool(self._open)

    @property
    def empty(self) -> bool:
        """No request is open, and no step of an ended one is on its way."""
        return not self.asked and not self.batch.flying

    @property
    def running(self) -> int:
        return len(self.batch.running)

    @property
    def waiting(self) -> int:
        return len(self._answers) - len(self.batch.running)

    @property
    def blocks_free(self) -> int:
        return self._pool.free

    def submit(self, request: Request, sink: Sink) -> None:
        """Take ``request`` in, or tell ``sink`` at once why not. One that is here already is its reader's last try."""
        self.cancel(request.request_id)
        each = _Open(request, sink)
        if refusal := self._capacity.refusal(request, self.waiting):
            self._tell(each, refusal)
            return
        arrival = next(self._arrivals)
        found = (self._answer(request, index, arrival) for index in range(request.n))
        answers = [answer for answer in found if answer is not None]
        each.answers = [answer for answer in answers if not answer.complete]
        each.held = each.answers[1:]
        self._open[request.request_id] = each
        self._answers.update({answer.sequence: (each, answer) for answer in each.answers})
        prompt_tokens_total.inc(len(request.prompt))
        first: list[Event] = [Accepted(len(request.prompt))]
        first += [answer.closing() for answer in answers if answer.complete]
        if not all(self._tell(each, event) for event in first):
            return
        if each.answers:
            self.batch.add(each.answers[0].sequence)
        else:
            self._end(each, batch.Event.FINISH, Ended())

    def cancel(self, request_id: str) -> bool:
        """End a request whose reader is gone; its blocks are free at once. False when it is not here."""
        each = self._open.get(request_id)
        if each is not None:
            self.cancelled += 1
            self._end(each, batch.Event.CANCEL, Ended(Refused.CANCELLED, "cancelled by its reader"))
        return each is not None

    def lose(self, reason: str) -> None:
        """The pipeline is gone: every request ends, to be continued elsewhere."""
        for each in tuple(self._open.values()):
            self._end(each, batch.Event.LOSE, Ended(Refused.PIPELINE_GONE, reason))
        self.batch.flying.clear()

    def next(self) -> Step | None:
        """What to compute next; None when there is nothing to do or enough is on its way."""
        preemptions, hits = self.batch.preemptions, self.batch.hits
        step = self.batch.next()
        preemptions_total.inc(self.batch.preemptions - preemptions)
        hits_total.inc(self.batch.hits - hits)
        if step is not None:
            flight.observe(len(self.batch.flying))
        return step

    def drawn(self, number: int) -> tuple[int, ...]:
        """Packed positions within step ``number`` whose logits are wanted. Raises UnknownStep."""
        places, end = [], 0
        for part in self._flying(number).slices:
            end += part.length
            if part.samples:
                places.append(end - 1)
        return tuple(places)

    def came_back(self, number: int, logits: torch.Tensor | None) -> None:
        """Draw and deliver. ``logits`` are [drawn, vocabulary], None when nothing was to be drawn.

        Raises sample.NotFinite when they make no sense, before anything of this step is delivered.
        """
        self._flying(number)
        step = self.batch.came_back(number)
        wanted = [part for part in step.slices if part.samples]
        rows = [row for row, part in enumerate(wanted) if part.valid]
        if logits is None or not rows:
            return
        due = [self._answers[wanted[row].sequence] for row in rows]
        drawn = choose(logits if len(rows) == len(wanted) else logits[rows], [answer.row() for _, answer in due])
        for (each, answer), choice in zip(due, drawn, strict=True):
            if answer.sequence in self._answers:  # else its reader failed at another answer of this step
                self._deliver(each, answer, choice)

    def check(self) -> None:
        """To be asked when empty: nothing is known any more and every block is free. Raises IntegrityError."""
        self._pool.check()
        left = len(self._answers) + len(self.batch.running) + len(self.batch.waiting)
        if left or self._pool.free != self._pool.blocks:
            raise IntegrityError(f"idle with {left} sequences, {self._pool.free} of {self._pool.blocks} blocks free")

    def _flying(self, number: int) -> Step:
        try:
            return self.batch.flying[number]
        except KeyError:
            raise UnknownStep(f"step {number} is not on its way, only {sorted(self.batch.flying)}") from None

    def _answer(self, request: Request, index: int, arrival: int) -> Answer | None:
        """None when its reader has all of it."""
        resumed = request.resumed.get(index)
        if resumed and resumed.finished:
            return None
        output = list(resumed.tokens) if resumed else []
        number = next(self._numbers)
        return Answer(
            request,
            replace(request.params, eos=self._text.eos),
            index,
            batch.Sequence(number, [*request.prompt, *output], (arrival, index), salt=request.salt),
            self._text,
            self._capacity.answer_limit(request),
            output,
        )

    def _deliver(self, each: _Open, answer: Answer, choice: Choice) -> None:
        self.batch.drawn(answer.sequence, choice.token)
        for held in each.held:  # the prompt is computed: they find it in the cache
            self.batch.add(held.sequence)
        each.held.clear()
        event = answer.push(choice)
        output_tokens_total.inc()
        if event.finish:
            self._forget(each, answer, batch.Event.FINISH)
        if self._tell(each, event) and not each.answers:
            self._end(each, batch.Event.FINISH, Ended())

    def _forget(self, each: _Open, answer: Answer, how: batch.Event) -> None:
        each.answers.remove(answer)
        del self._answers[answer.sequence]
        self.batch.end(answer.sequence, how)

    def _end(self, each: _Open, how: batch.Event, ended: Ended) -> None:
        del self._open[each.request.request_id]
        each.held.clear()
        for answer in tuple(each.answers):
            self._forget(each, answer, how)
        self._tell(each, ended)

    def _tell(self, each: _Open, event: Event) -> bool:
        """False when the reader failed: its own fault, which must not reach the pipeline. Its request is cancelled."""
        if isinstance(event, Ended):
            requests_total.labels(event.reason or "finished").inc()
        try:
            each.sink(event)
        except Exception:
            reader_failures_total.inc()
            log.warning("a reader failed", request_id=each.request.request_id, phase="deliver", exc_info=True)
            self.cancel(each.request.request_id)
            return False
        return True
