"""One replica at work: requests wait, are prefilled in turn, and are decoded together. Nothing happens per token.

A step takes as long as its tokens cost; all that is decoded moves on by one token a step. So between two events the
tokens written since the beginning grow at a constant rate, and a request ends when they have grown by its own.
May not live here: why a replica is there, and on which device.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf

from sim.models import Kind


class Asked:
    """A request. Times in seconds since the beginning (-1: not yet)."""

    __slots__ = ("answer", "at", "cold", "early", "ended", "first", "prompt")

    def __init__(self, at: float, prompt: int, answer: int, cold: bool) -> None:
        self.at = at
        self.prompt = max(prompt, 1)
        self.answer = max(answer, 1)
        self.cold = cold
        self.first = -1.0
        self.ended = -1.0
        self.early = False  # it began before its pipeline had become one device


class Speed:
    """Seconds of a step of one kind of model, remembered: they are asked for at every event. ``staged``: times as long
    that it takes on several devices."""

    def __init__(self, kind: Kind, batch: int, staged: float) -> None:
        self.kind = kind
        self.batch = batch
        self.staged = staged
        self.budget = kind.budget
        self._steps: dict[tuple[int, int], float] = {}

    def step(self, tokens: int, decoding: int) -> float:
        """Of ``tokens`` prompt tokens and one token of each of ``decoding`` requests."""
        key = tokens, decoding
        seconds = self._steps.get(key)
        if seconds is None:
            drawn = decoding + (1 if tokens else 0)
            seconds = self._steps[key] = self.kind.step(tokens + decoding, drawn)
        return seconds


class Replica:
    """``opens``: when its first prompts are done at the earliest (those that came before); then it serves. ``stages``:
    devices through which each step goes; ``hop``: seconds between two of them."""

    __slots__ = (
        "began",
        "decoding",
        "draining",
        "extra",
        "fills",
        "formed",
        "group",
        "held",
        "hop",
        "idle_since",
        "last",
        "left",
        "opens",
        "outstanding",
        "owner",
        "prefill_rate",
        "pulling",
        "queue",
        "rate",
        "serves",
        "slow",
        "speed",
        "stages",
        "steps",
        "version",
        "waited",
        "written",
    )

    def __init__(self, owner: object, speed: Speed, held: list[int], opens: float, hop: float, serves: bool) -> None:
        self.owner = owner
        self.speed = speed
        self.held = held  # its devices; the first is the one that stays
        self.extra: list[int] = []  # devices that leave once what began on them has ended
        self.began = 0.0
        self.waited = 0  # how many requests those wait for
        self.stages = len(held)
        self.hop = hop
        self.opens = opens
        self.fills = inf  # when its first device holds all
        self.formed = False  # takes requests before it serves
        self.serves = serves
        self.draining = False
        self.pulling: list[int] = []  # devices that load for it now
        self.queue: deque[Asked] = deque()
        self.group: list[Asked] = []  # prefilled now
        self.left = 0.0  # prompt tokens of the group that are to be computed
        self.steps = 0  # tokens of the group in one step
        self.decoding: list[tuple[float, int, Asked]] = []
        self.written = 0.0  # tokens that each request decoded would have written since the beginning
        self.rate = 0.0
        self.prefill_rate = 0.0
        self.slow = 1  # replicas that share the processors
        self.last = 0.0
        self.outstanding = 0
        self.idle_since = 0.0
        self.version = 0

    @property
    def busy(self) -> bool:
        return bool(self.group or self.decoding)

    def pass_time(self, now: float) -> None:
        """What was computed since the last event."""
        passed = now - self.last
        self.written += passed * self.rate
        if self.group:
            self.left -= passed * self.prefill_rate
        self.last = now

    def admit(self, asked: Asked, now: float) -> None:
        self.outstanding += 1
        asked.early = self.stages > 1
        self.queue.append(asked)
        if not self.group and self.serves:
            self.pass_time(now)
            waits, before = self.rest_of_step(), self.rate
            self.next_group()
            self.left += waits * self.prefill_rate
            self.written += waits * (before - self.rate)  # meanwhile others write as fast as they did

    def rest_of_step(self) -> float:
        """Seconds until the step that is computed now is done: a prompt that comes meanwhile is not in it."""
        return -(self.written - 1e-6) % 1 / self.rate if self.decoding else 0.0

    def next_group(self) -> None:
        """The next prompts, as many as fit into a step; they are prefilled together."""
        group, tokens, budget = self.group, 0, self.speed.budget
        room = self.speed.batch - len(self.decoding)
        while self.queue and len(group) < room and (not group or tokens + self.queue[0].prompt <= budget):
            asked = self.queue.popleft()
            tokens += asked.prompt
            group.append(asked)
        self.left, self.steps = float(tokens), min(tokens, budget)
        self.pace()

    def first_group(self, budget: int) -> int:
        """Tokens that are at the head when the weights begin to come, and are computed as they land."""
        tokens = 0
        while self.queue and (not self.group or tokens + self.queue[0].prompt <= budget):
            tokens += self.queue[0].prompt
            self.group.append(self.queue.popleft())
        return tokens

    def pace(self) -> None:
        """Rates from now on."""
        decoding = len(self.decoding)
        hops, slow = 0.0, float(self.slow)
        if self.stages > 1:
            # Stages wait for one another; while they do, others compute.
            hops, slow = self.hop * self.stages, max(slow, self.speed.staged)
        if self.group:
            pace = 1 / (self.speed.step(self.steps, decoding) * slow + hops)
            self.rate, self.prefill_rate = (pace if decoding else 0.0), pace * self.steps
        elif decoding:
            self.rate = 1 / (self.speed.step(0, decoding) * slow + hops)
        else:
            self.rate = 0.0

    def due(self) -> float:
        """When something happens next by itself."""
        soonest = inf
        if self.group and self.serves:
            soonest = self.last + max(self.left, 0.0) / self.prefill_rate
        if self.decoding:
            soonest = min(soonest, self.last + max(self.decoding[0][0] - self.written, 0.0) / self.rate)
        return soonest

    def happen(self, now: float, ended: list[Asked], firsts: list[Asked]) -> None:
        """What is due at ``now``: prompts are done, requests end."""
        self.pass_time(now)
        if self.group and self.left <= 1e-6 * self.steps:
            self.prefilled(now, ended, firsts)
        while self.decoding and self.decoding[0][0] <= self.written + 1e-6:
            asked = heappop(self.decoding)[2]
            asked.ended = now
            ended.append(asked)
        if not self.group:
            self.next_group()
        else:
            self.pace()

    def prefilled(self, now: float, ended: list[Asked], firsts: list[Asked]) -> None:
        """Every request of the group has its first token."""
        for asked in self.group:
            asked.first = now
            firsts.append(asked)
            if asked.answer == 1:
                asked.ended = now
                ended.append(asked)
            else:
                self.version += 1
                heappush(self.decoding, (self.written + asked.answer - 1, self.version, asked))
        self.group = []
