"""What would be lost with a worker's pod: who may go first, and with whom nothing is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forebay_operator.decide.pool_seen import Load, PodSeen, PoolsSeen

ATTACHING = 60.0
"""Seconds after which a pod that is ready, and whose worker has not attached, does nothing for us."""


@dataclass(frozen=True, slots=True)
class Worth:
    """``useless``: names of pods that do nothing; ``wakes``: unix seconds when others turn out to."""

    loads: Mapping[str, Load]
    useless: frozenset[str]
    wakes: tuple[float, ...]

    @classmethod
    def of(cls, seen: PoolsSeen, now: float) -> Worth:
        useless, wakes = set(), []
        for pod in seen.pods:
            load = seen.loads.get(pod.name)
            silent_at = max(pod.since, seen.began) + ATTACHING
            if load is not None and load.pipelines:
                # With requests, one may miss a probe; whoever misses them for longer than handing over takes will not
                # come back, and an update would wait for it for ever. Its end begins with handing over all the same.
                lost_at = pod.since + pod.grace
                if not pod.ready and lost_at <= now:
                    useless.add(pod.name)
                elif not pod.ready:
                    wakes.append(lost_at)
                continue
            if pod.sick or not pod.ready or (load is None and silent_at <= now):
                useless.add(pod.name)
            elif load is None:
                wakes.append(silent_at)
        return cls(seen.loads, frozenset(useless), tuple(wakes))

    def unknown(self, pod: PodSeen) -> bool:
        """It may yet attach, and then turn out to be busy, or idle."""
        return pod.name not in self.useless and pod.name not in self.loads

    def serves(self, pod: PodSeen) -> bool:
        return pod.ready and pod.name in self.loads

    def cheapest(self, pods: Iterable[PodSeen]) -> list[PodSeen]:
        """From the one whose going costs least; among equals the highest index first."""
        backwards = sorted(pods, key=lambda pod: (len(pod.name), pod.name), reverse=True)
        return sorted(backwards, key=self._cost)

    def _cost(self, pod: PodSeen) -> tuple[bool, Load]:
        return pod.name not in self.useless, self.loads.get(pod.name, Load())
