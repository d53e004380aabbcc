"""What is asked of a function, as it was measured, and what one scaling decision leaves to the next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Source(StrEnum):
    """Who measured."""

    PROMETHEUS = "Prometheus"
    GATEWAYS = "gateways"


@dataclass(frozen=True, slots=True)
class Load:
    """Means over the stable window and over the panic window at the end of it, in the unit of the function's metric:
    requests in flight and held, tokens per second, or whatever its own query counts.

    ``known``: seconds up to ``sampled_at`` (unix seconds) that are known without a gap, at most the stable window."""

    stable: float = 0.0
    panic: float = 0.0
    known: float = 0.0
    sampled_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What Prometheus says of a function. ``load`` None: nothing that can be used. ``trouble``: (reason, message) of
    what makes it blind. ``ageless``: it comes of no samples, but of a query that names no series."""

    load: Load | None = None
    trouble: tuple[str, str] | None = None
    ageless: bool = False


class Memory(NamedTuple):
    """What a decision leaves to the next one of the same function. Times in unix seconds.

    ``last``: the replicas that it came to; None where there was none. ``panic_until``: 0 outside of panic;
    ``panic_peak``: the most replicas since it began. ``tick_began`` and ``tick_base``: when the tick of the rate limits
    began, and the replicas then. ``peaks``: what was wanted within the scale-down delay, as (time, replicas) with
    descending replicas."""

    last: int | None = None
    panic_until: float = 0.0
    panic_peak: int = 0
    tick_began: float = 0.0
    tick_base: int = 0
    peaks: tuple[tuple[float, int], ...] = ()
