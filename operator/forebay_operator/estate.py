"""What is known of workers besides what they say themselves: whose pool they belong to, and whose device is sick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forebay_operator.decide.seen import WorkerSeen


@dataclass(frozen=True, slots=True)
class Estate:
    """``pools``: by worker. ``unhealthy``: those to be given no work. Both are empty where there is no cluster."""

    pools: Mapping[str, str] = field(default_factory=dict)
    unhealthy: frozenset[str] = frozenset()

    def known(self, worker: WorkerSeen) -> WorkerSeen:
        ready = worker.ready and worker.name not in self.unhealthy
        return replace(worker, ready=ready, pool=self.pools.get(worker.name, ""))
