"""Pools over a store, pass by pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster_pools.store import Store
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.cluster.pools import Pools
from forebay_operator.cluster.seen import ClusterSeen
from forebay_operator.cluster.template import PodSettings
from forebay_operator.decide.seen import Link, WorkerSeen

NOW = 1_795_262_400.0  # 2026-11-21T12:00:00Z, when all pods of the store were created
SETTINGS = PodSettings("forebay-system", "fb", "fb-operator.forebay-system.svc:9443", "worker:1")
CACHE = {"claimTemplate": {"size": "1Gi"}}


@dataclass
class Stand:
    """A store, the pools over it, and the events they told."""

    store: Store = field(default_factory=Store)
    events: list[tuple[str, str, str, bool]] = field(default_factory=list)
    now: float = NOW

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As an operator that starts."""
        self.pools = Pools(self.store, SETTINGS, self.tell)  # type: ignore[arg-type]

    def tell(self, body: Mapping[str, Any], reason: str, message: str, warning: bool) -> None:
        self.events.append((body["metadata"]["name"], str(reason), message, warning))

    async def turn(self, seen: ClusterSeen | None = None) -> tuple[list[tuple[str, str, str]], float | None]:
        """The writes of one pass, and when it wants the next."""
        self.store.calls.clear()
        attached = {
            name: WorkerSeen(name, "i", True, 10**9, Link(1.0), frozenset()) for name in self.store.names(KINDS.POD)
        }
        due = await self.pools.reconcile(seen or self.store.seen, attached, self.now)
        return [call for call in self.store.calls if call[0] != "get"], due

    async def settle(self) -> None:
        for _ in range(50):
            calls, _ = await self.turn()
            self.store.run_pods()
            if not calls:
                return
        raise AssertionError(f"no end: {calls}")

    def status(self) -> dict[str, Any]:
        return self.store.objects["WorkerPool", "gpu"]["status"]

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(one for one in self.status()["conditions"] if one["type"] == kind)
        return found["status"], found["reason"], found["message"]
