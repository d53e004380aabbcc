"""What is known of workers besides what they say themselves: whose pool they belong to, and whose device is sick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forebay_operator.decide.seen import WorkerSeen


@dataclass(frozen=True, slots=True)
class Estate:
    """``pools``: by worker; ``existing``: all of them. ``unhealthy``: workers to be given no work. Where there is no
    cluster, nothing is known."""

    pools: Mapping[str, str] = field(default_factory=dict)
    unhealthy: frozenset[str] = frozenset()
    existing: frozenset[str] | None = None

    def known(self, worker: WorkerSeen) -> WorkerSeen:
        well, pool = worker.name not in self.unhealthy, self.pools.get(worker.name, "")
        return replace(worker, ready=worker.ready and well, draining=worker.draining and well, pool=pool)
