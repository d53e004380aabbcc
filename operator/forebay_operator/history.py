"""What was measured of late, by one query: samples with gaps, filled from Prometheus' storage where that has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from forebay_api.conditions import Reason
from forebay_operator.decide.samples import Trouble

T = TypeVar("T")

REMEMBERED = 300.0
"""Seconds of gaps between samples: as long as Prometheus looks back for one."""


@dataclass(slots=True)
class History(Generic[T]):
    """Times are of Prometheus' clock, but for ``measured_at``: when the latest sample was measured, in unix seconds of
    ours. ``interval``: seconds from sample to sample as far as we saw (0: not yet); ``gaps``: the (time, seconds) it
    comes from. ``trouble``: what kept the last round from adding to it. ``filled_from``: from when on we asked what is
    stored."""

    samples: deque[tuple[float, T]] = field(default_factory=deque)
    measured_at: float = 0.0
    interval: float = 0.0
    stamped: float = 0.0
    gaps: deque[tuple[float, float]] = field(default_factory=deque)
    trouble: Trouble | None = None
    filled_from: float | None = None

    @property
    def end(self) -> float:
        """The time of the latest sample, 0 without any."""
        return self.samples[-1][0] if self.samples else 0.0

    def add(self, at: float, value: T, measured_at: float) -> None:
        if at > self.end:
            self.samples.append((at, value))
        self.measured_at = measured_at

    def stamp(self, stamped: float) -> None:
        """The latest sample is of then: what lies between two of them is how often it is scraped. At most: where
        several targets are scraped in turn, times between them differ. What lies across a trouble does not count,
        unless that is all there is: the first samples of a slow scrape seem stale."""
        if self.stamped and stamped > self.stamped and (self.trouble is None or self._seems_slow(self.trouble)):
            self.gaps.append((stamped, stamped - self.stamped))
            while self.gaps[0][0] < stamped - REMEMBERED:
                self.gaps.popleft()
            self.interval = max(seconds for _, seconds in self.gaps)
        self.stamped = stamped

    def _seems_slow(self, trouble: Trouble) -> bool:
        return trouble.reason is Reason.STALE_SAMPLES and not self.gaps

    def lacks(self, at: float, seconds: float, gap: float) -> bool:
        """Whether Prometheus has to be asked for what was before ``at``."""
        if self.filled_from is None or at - self.end > gap:
            return True
        return self.filled_from > at - seconds

    def fill(self, since: float, found: Iterable[tuple[float, T]]) -> None:
        """``found`` is what was stored from ``since`` on."""
        merged = {**dict(found), **dict(self.samples)}
        self.samples = deque(sorted(merged.items(), key=lambda sample: sample[0]))
        self.filled_from = since

    def forget(self, before: float) -> None:
        while self.samples and self.samples[0][0] < before:
            self.samples.popleft()

    def clear(self) -> None:
        self.samples.clear()
        self.filled_from = None
        self.stamped = 0.0
        self.gaps.clear()
