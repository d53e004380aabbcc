"""Demand of the last minute, a sample a second."""

from __future__ import annotations

import math
from collections import deque

from forebay_operator.decide.load import Load

SECONDS = 60


class Window:
    """Turns a value that changes at any moment into its mean over each whole second. Memory: a minute of samples."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SECONDS)
        self._value = 0.0
        self._since = now
        self._area = 0.0
        self._begun = now

    def record(self, now: float, value: float) -> None:
        """``value`` holds from ``now`` (unix seconds) on."""
        self._advance(now)
        self._value = value

    def samples(self, now: float) -> tuple[tuple[float, float], ...]:
        """(end of the second, mean over it), ascending, of the last minute; the second under way is left out."""
        self._advance(now)
        return tuple(sample for sample in self._samples if sample[0] > now - SECONDS)

    def load(self, now: float) -> Load:
        """Its means at ``now``."""
        samples = self.samples(now)
        if not samples:
            return Load(self._value, self._value, 0.0, now)
        recent = [value for end, value in samples if end > now - SECONDS / 10] or [samples[-1][1]]
        mean = sum(value for _, value in samples) / len(samples)
        return Load(mean, sum(recent) / len(recent), float(len(samples)), now)

    def _advance(self, now: float) -> None:
        if now - self._since > 2 * SECONDS:  # asleep or unwatched: older seconds would fall out anyway
            self._since = self._begun = math.floor(now) - SECONDS
            self._area = 0.0
        while (end := math.floor(self._since) + 1) <= now:
            self._area += self._value * (end - self._since)
            self._samples.append((float(end), self._area / (end - self._begun)))
            self._since = self._begun = end
            self._area = 0.0
        if now > self._since:  # a clock that was set back adds nothing
            self._area += self._value * (now - self._since)
            self._since = now
