"""Nodes, their devices, and the links by which weights come: which device is free, and at what rate it loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """Rates in bytes per second; ``bucket`` is shared by the links of one node (0: there is none). ``places``: models
    that a device can hold at once. ``start``: seconds from the request to the first byte. ``shared``: all devices
    compute on the same processors (several workers on one machine); ``staged``: times as long that a step takes there
    on several that load."""

    gpus: int = 64
    per_node: int = 8
    link: float = 2e9
    bucket: float = 8e9
    memory: int = 80 * 10**9
    places: int = 1
    start: float = 0.05
    shared: bool = False
    staged: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gpus", "per_node", "link", "memory", "places"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: more than 0 would be right")


class Devices:
    """Which devices are taken, and since when. Devices are numbered; node n has those from n × per_node on."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.count = hardware.gpus
        self._tenants = [0] * hardware.gpus
        nodes = -(-hardware.gpus // hardware.per_node)
        self._free = [0] * nodes
        for device in range(hardware.gpus):
            self._free[self.node(device)] += 1
        # Nodes by how many of their devices are free: dicts keep an order, so that runs repeat.
        self._by_free: list[dict[int, None]] = [{} for _ in range(hardware.per_node + 1)]
        for node, free in enumerate(self._free):
            self._by_free[free][node] = None
        self._loading = [0] * nodes
        self.taken = 0
        self.most = 0

    def node(self, device: int) -> int:
        return device // self.hardware.per_node

    def emptiest(self) -> int | None:
        """The node with most free devices: links of a new pipeline have its bucket to themselves there, if any."""
        return next((next(iter(nodes)) for nodes in reversed(self._by_free[1:]) if nodes), None)

    def fullest(self) -> int | None:
        """The node with the fewest free devices that has one: pipelines need several on one node."""
        return next((next(iter(nodes)) for nodes in self._by_free[1:] if nodes), None)

    def free(self, node: int) -> list[int]:
        """Those of ``node`` that can take one more model, with the fewest others first."""
        first = node * self.hardware.per_node
        places = self.hardware.places
        found = [
            device
            for device in range(first, min(first + self.hardware.per_node, self.count))
            if self._tenants[device] < places
        ]
        return sorted(found, key=self._tenants.__getitem__) if places > 1 else found

    def take(self, device: int) -> None:
        """A number beyond those that exist is a device that is only thought of: it is counted, and nothing else."""
        self.taken += 1
        self.most = max(self.most, self.taken)
        if device >= self.count:
            return
        self._tenants[device] += 1
        if self._tenants[device] == self.hardware.places:
            self._move(self.node(device), -1)

    def give_back(self, device: int) -> None:
        self.taken -= 1
        if device >= self.count:
            return
        if self._tenants[device] == self.hardware.places:
            self._move(self.node(device), +1)
        self._tenants[device] -= 1

    def _move(self, node: int, by: int) -> None:
        del self._by_free[self._free[node]][node]
        self._free[node] += by
        self._by_free[self._free[node]][node] = None

    def begin_load(self, device: int) -> None:
        self._loading[self.node(device)] += 1

    def end_load(self, device: int) -> None:
        self._loading[self.node(device)] -= 1

    def rate(self, node: int, more: int) -> float:
        """Bytes per second of one link of ``node`` when ``more`` of them begin to load, beside those that do."""
        bucket = self.hardware.bucket
        return min(self.hardware.link, bucket / (self._loading[node] + more)) if bucket else self.hardware.link

    def bucket(self, node: int, more: int) -> float:
        """Bytes per second of the node's bucket that are left for ``more`` links."""
        return self.hardware.bucket * more / (self._loading[node] + more)
