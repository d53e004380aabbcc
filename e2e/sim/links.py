"""Links of devices that hold several models: they load one after another, what is urgent before what may wait.

    link of device 0   │ a urgent │ b urgent │ rest of a │ rest of b │
                       a asked  b asked

May not live here: who loads what, and how fast.
"""

from __future__ import annotations

from sim.replica import Replica


class Links:
    def __init__(self) -> None:
        self._urgent: dict[int, float] = {}  # until when, by device
        self._filling: list[Replica] = []

    def begin(self, replica: Replica, now: float, urgent: float, rest: float) -> float:
        """Seconds that ``replica`` waits for its first byte. It then loads for ``urgent`` seconds; what others filled
        meanwhile waits, and behind them its first device fills for ``rest`` seconds, which sets ``replica.fills``."""
        devices = set(replica.held)
        begins = max([now, *(self._urgent.get(device, now) for device in devices)])
        behind = begins + urgent
        self._urgent.update(dict.fromkeys(devices, behind))
        self._filling = [other for other in self._filling if other.fills > now]
        for other in self._filling:
            if not devices.isdisjoint(other.held):
                other.fills += urgent
                behind = max(behind, other.fills)
        replica.fills = behind + rest
        if rest:
            self._filling.append(replica)
        return begins - now
