"""Means of one number over the last minute, or however long a function wants to look back."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

from forebay_api.function import Scaling
from forebay_operator.decide.gauge import panic_seconds
from forebay_operator.decide.load import Load

PIECES = 60
"""A mean is exact to this part of its window, and takes memory for twice as many points at most."""


class Window:
    """A level that changes at any moment, or amounts that come at any moment, as means over the stable and the panic
    window of ``scaling``. ``known`` counts from ``now`` (unix seconds)."""

    def __init__(self, now: float, scaling: Scaling | None = None) -> None:
        scaling = scaling or Scaling()
        self.scaling = scaling
        self._known_since = now
        self._stable = _Mean(now, float(scaling.window_seconds))
        self._panic = _Mean(now, panic_seconds(scaling))

    def begin(self, now: float) -> None:
        """Whatever was before ``now`` is not known."""
        self._known_since = now

    def record(self, now: float, level: float) -> None:
        """``level`` holds from ``now`` (unix seconds) on."""
        for mean in (self._stable, self._panic):
            mean.change(now, level=level)

    def add(self, now: float, amount: float) -> None:
        """``amount`` came between the last time and ``now``; the means are amounts per second."""
        for mean in (self._stable, self._panic):
            mean.change(now, amount=amount)

    def load(self, now: float) -> Load:
        """Its means at ``now``, over as much of the windows as is known."""
        known = min(max(now - self._known_since, 0.0), float(self.scaling.window_seconds))
        return Load(self._stable.mean(now, known), self._panic.mean(now, known), known, now)


class _Mean:
    """The area under the level, remembered at points in time that are ``span / PIECES`` apart or more; between two of
    them it is taken as evenly spread."""

    def __init__(self, now: float, span: float) -> None:
        self._span = span
        self._width = span / PIECES
        self._points: deque[tuple[float, float]] = deque([(now, 0.0)])
        self._since = now
        self._area = 0.0
        self._level = 0.0
        self._changed = False

    def change(self, now: float, *, level: float | None = None, amount: float = 0.0) -> None:
        now = max(now, self._since)  # a clock that was set back adds nothing
        self._advance(now)
        if amount and now - self._points[-1][0] > self._width:  # it did not come during all the silence
            self._point(now - self._width)
        self._area += amount
        self._changed = True
        self._level = self._level if level is None else level

    def mean(self, now: float, known: float) -> float:
        """Over the last ``known`` seconds before ``now``, at most its span; the level where that is no time."""
        now = max(now, self._since)
        self._advance(now)
        seconds = min(known, self._span)
        if seconds <= 0:
            return self._level
        return max(self._area - self._area_at(now - seconds, now), 0.0) / seconds

    def _advance(self, now: float) -> None:
        """All changes lie before ``now``, and within a width of the last point if there were any since."""
        edge = self._points[-1][0] + self._width
        if self._changed and now >= edge:
            self._point(max(edge, self._since))
            self._changed = False
        self._area += self._level * (now - self._since)
        self._since = now
        while len(self._points) > 1 and self._points[1][0] <= now - self._span:
            self._points.popleft()

    def _point(self, at: float) -> None:
        self._points.append((at, self._area + self._level * (at - self._since)))

    def _area_at(self, at: float, now: float) -> float:
        place = bisect_right(self._points, at, key=lambda point: point[0])
        if place == 0:
            return self._points[0][1]
        begin, low = self._points[place - 1]
        end, high = next(islice(self._points, place, None), (now, self._area))
        return low + (high - low) * (at - begin) / (end - begin) if end > begin else high
