"""What the API server was told a moment ago, until the watch shows it: else a second pass would tell it again, and
delete another one, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forebay_operator.decide.pool_seen import ClaimSeen, PodSeen

PATIENCE = 30.0
"""Seconds after which what the watch shows is believed, whatever was told: of what was deleted."""

MADE = 5.0
"""The same of what was created. Less, for it may be gone before the watch showed it, and then another is due; where the
watch lags, to create it once more harms nothing."""


class Told:
    """Pods and claims created, and pods deleted. Times are unix seconds."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[PodSeen, float]] = {}
        self._claims: dict[str, tuple[ClaimSeen, float]] = {}
        self._deleted: dict[str, float] = {}

    def created(self, made: PodSeen | ClaimSeen, now: float) -> None:
        if isinstance(made, PodSeen):
            self._pods[made.name] = (made, now)
        else:
            self._claims[made.name] = (made, now)

    def deleted(self, uid: str, now: float) -> None:
        self._deleted[uid] = now

    @property
    def wake_at(self) -> float | None:
        """When something told is believed no longer (unix seconds): nobody else says so."""
        times = [at + MADE for _, at in (*self._pods.values(), *self._claims.values())]
        return min((*times, *(at + PATIENCE for at in self._deleted.values())), default=None)

    def pods(self, shown: Mapping[str, PodSeen], now: float) -> tuple[PodSeen, ...]:
        """``shown`` by name, with what was told laid over it."""
        self._pods = {
            name: (pod, at) for name, (pod, at) in self._pods.items() if name not in shown and now < at + MADE
        }
        known = {pod.uid for pod in shown.values() if not pod.leaving} | {pod.uid for pod, _ in self._pods.values()}
        self._deleted = {uid: at for uid, at in self._deleted.items() if uid in known and now < at + PATIENCE}
        laid = [*shown.values(), *(pod for pod, _ in self._pods.values())]
        return tuple(replace(pod, leaving=True) if pod.uid in self._deleted else pod for pod in laid)

    def claims(self, shown: Mapping[str, ClaimSeen], now: float) -> tuple[ClaimSeen, ...]:
        self._claims = {
            name: (claim, at) for name, (claim, at) in self._claims.items() if name not in shown and now < at + MADE
        }
        return (*shown.values(), *(claim for claim, _ in self._claims.values()))
