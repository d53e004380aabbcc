"""What the gateway knows of one function's requests: who waits, who is served, how long it takes."""

from __future__ import annotations

import collections
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Counter

from forebay_api.function import FunctionKey
from forebay_api.model import Epoch

if TYPE_CHECKING:
    from forebay_gateway.seat import Seat

FUNCTION_TOKENS = Counter("forebay_function_tokens_total", "Tokens delivered.", ["function"])

RETRY_SECONDS = (1, 120)
"""Bounds of Retry-After: the OpenAI client does not retry at all above two minutes."""

UNKNOWN_SERVICE_SECONDS = 1.0
"""Taken for the service time of a function that has not ended a request yet."""

RECENT = 0.2
"""Weight of the latest request in the recent service time."""


@dataclass(slots=True)
class Desk:
    """``service_seconds``: recent time from grant to end; ``last_ended`` in unix seconds, 0 = never; ``tokens`` that
    were delivered."""

    key: FunctionKey
    queue: deque[Seat] = field(default_factory=deque)
    served: collections.Counter[Epoch] = field(default_factory=collections.Counter)
    ended: int = 0
    tokens: int = 0
    last_ended: float = 0.0
    service_seconds: float = UNKNOWN_SERVICE_SECONDS
    _told: tuple[int, int, int] = (0, 0, -1)
    _counted: Counter = field(init=False)

    def __post_init__(self) -> None:
        # There from the first request on, long before its first token: a rate sees no rise of a series that begins.
        self._counted = FUNCTION_TOKENS.labels(str(self.key))

    def __repr__(self) -> str:
        return f"<Desk {self.key} {len(self.queue)} waiting, {self.in_flight} in flight, {self.ended} ended>"

    @property
    def waiting(self) -> int:
        return len(self.queue)

    @property
    def in_flight(self) -> int:
        return self.served.total()

    def changed(self) -> bool:
        """Whether the counts are others than at the last call."""
        now = (self.waiting, self.in_flight, self.ended)
        told, self._told = self._told, now
        return told != now

    def count_token(self) -> None:
        self.tokens += 1
        self._counted.inc()

    def note_service(self, seconds: float) -> None:
        if self.service_seconds == UNKNOWN_SERVICE_SECONDS:
            self.service_seconds = seconds
        self.service_seconds += RECENT * (seconds - self.service_seconds)


def retry_after(*, waiting: int, slots: int, service_seconds: float, eta: float | None) -> int:
    """Seconds until a newcomer may hope: when loading ends as predicted (``eta``), and those before it were served.

    ``slots``: how many are served at a time.
    """
    seconds = (eta or 0.0) + waiting * service_seconds / max(1, slots)
    return min(max(math.ceil(seconds), RETRY_SECONDS[0]), RETRY_SECONDS[1])
