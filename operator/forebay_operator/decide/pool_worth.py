"""What would be lost with a worker's pod: who may go first, and with whom nothing is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forebay_operator.decide.pool_seen import Load, PodSeen, PoolsSeen

ATTACHING = 60.0
"""Seconds after which a pod that is ready, and whose worker has not attached, does nothing for us."""

ALONE = 600.0
"""The same while nobody at all is attached: then it is more likely we whom they do not reach. Not for ever: what keeps
them away may be a template that has been corrected."""


@dataclass(frozen=True, slots=True)
class Worth:
    """``useless``: names of pods that do nothing; ``silent``: of those that seem to, but may serve on out of our reach;
    ``wakes``: unix seconds when others turn out to be either."""

    loads: Mapping[str, Load]
    useless: frozenset[str]
    silent: frozenset[str]
    wakes: tuple[float, ...]

    @classmethod
    def of(cls, seen: PoolsSeen, now: float) -> Worth:
        useless, silent, wakes = set(), set(), []
        patience = ATTACHING if seen.loads else ALONE
        for pod in seen.pods:
            load = seen.loads.get(pod.name)
            silent_at = max(pod.since, seen.began) + patience
            if load is not None and load.pipelines:
                # With requests, one may miss a probe; whoever misses them for longer than handing over takes will not
                # come back, and an update would wait for it for ever. Its end begins with handing over all the same.
                lost_at = pod.since + pod.grace
                if not pod.ready and lost_at <= now:
                    useless.add(pod.name)
                elif not pod.ready:
                    wakes.append(lost_at)
                continue
            if pod.sick or not pod.ready:
                useless.add(pod.name)
            elif load is None and silent_at <= now:
                silent.add(pod.name)
            elif load is None:
                wakes.append(silent_at)
        return cls(seen.loads, frozenset(useless), frozenset(silent), tuple(wakes))

    def unknown(self, pod: PodSeen) -> bool:
        """It may yet attach, and then turn out to be busy, or idle."""
        return not any(pod.name in those for those in (self.useless, self.silent, self.loads))

    def serves(self, pod: PodSeen) -> bool:
        return pod.ready and pod.name in self.loads

    def cheapest(self, pods: Iterable[PodSeen]) -> list[PodSeen]:
        """From the one whose going costs least; among equals the highest index first."""
        backwards = sorted(pods, key=lambda pod: (len(pod.name), pod.name), reverse=True)
        return sorted(backwards, key=self._cost)

    def _cost(self, pod: PodSeen) -> tuple[bool, bool, Load]:
        return pod.name not in self.useless, pod.name not in self.silent, self.loads.get(pod.name, Load())
