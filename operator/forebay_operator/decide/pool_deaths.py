"""How long a pod that ended for good stays before another takes its place: one that lived goes at once, one that dies
again and again goes ever later. (A container that dies is restarted by its kubelet, which has the same rule.)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forebay_operator.decide.pool_seen import Death, PodSeen

SETTLED = 600.0
"""Seconds of life after which a death is the first again."""

FIRST = 10.0
LONGEST = 300.0
"""Seconds of the first wait, doubled from death to death, and of the longest."""


def deaths(before: Mapping[str, Death], pods: Iterable[PodSeen], now: float) -> dict[str, Death]:
    """``before`` with those of ``pods`` that are dead, by name; without those so long ago that they count no more. One
    that was told to end died of that."""
    found = {name: death for name, death in before.items() if now - death.at < SETTLED + LONGEST}
    for pod in pods:
        last = found.get(pod.name)
        if pod.dead and not pod.leaving and (last is None or last.uid != pod.uid):
            quick = (last.quick if last else 0) + 1 if now - pod.created < SETTLED else 0
            found[pod.name] = Death(pod.uid, quick, now)
    return found


def over_at(death: Death | None) -> float:
    """Unix seconds from which another may take the place."""
    if death is None or not death.quick:
        return 0.0
    return death.at + min(LONGEST, FIRST * 2.0 ** min(death.quick - 1, 16))
