"""Device-seconds: which function holds which device since when, counted in two ways that must agree."""

from __future__ import annotations

from sim.function import Function
from sim.hardware import Devices


class Held:
    """``integral``: devices taken, over time. Both count up to ``horizon`` seconds and no further."""

    def __init__(self, devices: Devices, horizon: float) -> None:
        self._devices = devices
        self._horizon = horizon
        self._since: dict[tuple[int, int], tuple[Function, float]] = {}
        self._counted = 0.0
        self.integral = 0.0

    def take(self, function: Function, device: int, now: float) -> None:
        self._count(now)
        self._since[function.index, device] = function, now
        self._devices.take(device)

    def give_back(self, function: Function, device: int, now: float) -> None:
        self._count(now)
        self._charge(*self._since.pop((function.index, device)), now)
        self._devices.give_back(device)

    def close(self, now: float) -> None:
        """What is held still is charged up to the horizon."""
        self._count(max(now, self._horizon))
        for function, since in self._since.values():
            self._charge(function, since, self._horizon)

    def _charge(self, function: Function, since: float, until: float) -> None:
        function.device_seconds += max(min(until, self._horizon) - since, 0.0)

    def _count(self, now: float) -> None:
        now = min(now, self._horizon)
        if now > self._counted:
            self.integral += self._devices.taken * (now - self._counted)
            self._counted = now
