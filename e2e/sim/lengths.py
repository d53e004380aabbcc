"""How long prompts and answers are: drawn from published percentiles."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log
from random import Random


@dataclass(frozen=True)
class Lengths:
    """``points``: (share of all that are at most so long, tokens), from share 0 to share 1. Between two points the
    logarithm of the length is uniform."""

    points: tuple[tuple[float, float], ...]

    def draw(self, random: Random) -> int:
        return self.at(random.random())

    def at(self, share: float) -> int:
        """The length that ``share`` of all do not exceed."""
        place = min(max(bisect_right(self.points, (share, inf)), 1), len(self.points) - 1)
        (low, at_low), (high, at_high) = self.points[place - 1 : place + 1]
        part = (share - low) / (high - low)
        return max(1, round(exp(log(at_low) + part * (log(at_high) - log(at_low)))))

    def mean(self) -> float:
        def of(at_low: float, at_high: float) -> float:
            return at_low if at_low == at_high else (at_high - at_low) / log(at_high / at_low)

        return sum((high - low) * of(x, y) for (low, x), (high, y) in pairwise(self.points))


# P50, P90 and P99 as published; the points between them are chosen so that the mean is the published one too.
AZURE_CODE_INPUT = Lengths(((0, 40), (0.1, 230), (0.5, 1469), (0.75, 2987), (0.9, 5194), (0.99, 7436), (1, 7437)))
AZURE_CODE_OUTPUT = Lengths(
    ((0, 5), (0.25, 8.5), (0.5, 13), (0.75, 25), (0.9, 55), (0.97, 95), (0.99, 252), (0.999, 600), (1, 1899))
)
AZURE_CONV_INPUT = Lengths(((0, 10), (0.25, 40), (0.5, 1020), (0.9, 2735), (0.99, 4142), (1, 14050)))
AZURE_CONV_OUTPUT = Lengths(
    ((0, 5), (0.25, 65), (0.5, 129), (0.6, 264), (0.75, 390), (0.9, 424), (0.99, 601), (1, 1000))
)
MOONCAKE_INPUT = Lengths(((0, 800), (0.5, 6909), (0.9, 22725), (0.99, 85401), (1, 126_000)))
MOONCAKE_OUTPUT = Lengths(((0, 5), (0.25, 150), (0.5, 350), (0.9, 589), (0.99, 1120), (1, 2000)))
# Only their kind is published (like Zipf's law), no percentile: most are short and a few are very long.
BURSTGPT_INPUT = Lengths(((0, 3), (0.5, 250), (0.9, 1500), (0.99, 3500), (1, 8000)))
BURSTGPT_OUTPUT = Lengths(((0, 1), (0.5, 120), (0.9, 480), (0.99, 1000), (1, 4000)))
