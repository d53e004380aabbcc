"""What a run gave: how long people waited for the first token, and what the devices were held for."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Seconds. ``device_seconds`` are those until the end of the trace, in which a device held a model of a function;
    ``integral`` is the same counted another way; ``most`` devices at once."""

    policy: str
    horizon: float
    firsts: array[float] = field(default_factory=lambda: array("d"))
    asked: int = 0
    ended: int = 0
    cold: int = 0
    refused: int = 0
    starts: int = 0
    device_seconds: float = 0.0
    integral: float = 0.0
    most: int = 0
    peaks: list[int] = field(default_factory=list)
    events: int = 0
    checks: int = 0
    _sorted: bool = False

    def quantile(self, share: float) -> float:
        """Of the seconds to the first token; 0 when there were no requests."""
        if not self._sorted:
            self.firsts = array("d", sorted(self.firsts))
            self._sorted = True
        return self.firsts[min(int(share * len(self.firsts)), len(self.firsts) - 1)] if self.firsts else 0.0

    @property
    def cold_share(self) -> float:
        return self.cold / self.asked if self.asked else 0.0
