"""When requests come: endless seeded processes of arrival times, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import cos, pi
from random import Random

Process = Callable[[Random], Iterator[float]]
"""Ascending times from 0 on, without an end."""

DAY = 86_400.0
STEP = 900.0
"""Seconds for which the rate of a day is taken as one."""


def poisson(rate: float) -> Process:
    """``rate`` a second, independent of each other."""
    return gamma(rate, 1.0)


def gamma(rate: float, cv: float) -> Process:
    """Gaps of a gamma distribution: ``cv`` is their standard deviation over their mean, bursty above 1."""
    shape = 1 / cv**2

    def process(random: Random) -> Iterator[float]:
        now = random.random() / rate
        while True:
            yield now
            now += random.gammavariate(shape, 1 / (rate * shape))

    return process


def swinging(rate: float, cv: float, swing: float, seconds: float) -> Process:
    """Gamma gaps whose rate is drawn anew every ``seconds``: log-normal with mean ``rate`` and spread ``swing``."""

    def process(random: Random) -> Iterator[float]:
        shape, now, until, level = 1 / cv**2, 0.0, 0.0, rate
        while True:
            while now >= until:
                level = rate * random.lognormvariate(-(swing**2) / 2, swing)
                until += seconds
            gap = random.gammavariate(shape, 1 / (level * shape))
            if now + gap > until:  # what is left of the gap passes at the new rate
                now = until
                continue
            now += gap
            yield now

    return process


def batches(rate: float, on: float, off: float, off_cv: float, swing: float) -> Process:
    """Silence and storm by turns: storms last ``on`` seconds in the mean, silences ``off`` (gamma, with ``off_cv``);
    over both the rate is ``rate``. Within a storm the rate of each second differs by the factor e^±``swing``."""
    level = rate * (on + off) / on

    def process(random: Random) -> Iterator[float]:
        now = random.random() * off
        while True:
            until = now + random.expovariate(1 / on)
            while now < until:
                second = min(now + 1.0, until)
                now_rate = level * random.lognormvariate(-(swing**2) / 2, swing)
                now += random.expovariate(now_rate)
                while now < second:
                    yield now
                    now += random.expovariate(now_rate)
                now = second
            now += random.gammavariate(1 / off_cv**2, off * off_cv**2)

    return process


def timer(period: float) -> Process:
    """Every ``period`` seconds."""

    def process(random: Random) -> Iterator[float]:
        now = random.random() * period
        while True:
            yield now
            now += period

    return process


def by_day(rate: float, cv: float, depth: float, peak: float) -> Process:
    """Gamma gaps whose rate goes up and down with the hour: ``depth`` 0 (never) to 1 (to nothing at night), highest at
    ``peak`` seconds after the day began."""
    shape, mean = 1 / cv**2, 1 / rate

    def process(random: Random) -> Iterator[float]:
        now, gap = 0.0, random.random() * mean
        while True:
            # Of the gap, what passes until the relative rate has changed: a gap may last for days.
            level = 1 + depth * cos(2 * pi * (now - peak) / DAY)
            while gap > level * STEP:
                gap -= level * STEP
                now += STEP
                level = 1 + depth * cos(2 * pi * (now - peak) / DAY)
            now += gap / level
            yield now
            gap = random.gammavariate(shape, mean / shape)

    return process
