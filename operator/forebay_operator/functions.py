"""The functions that exist, as their source last said; where they come from is none of our business."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from prometheus_client import Gauge

from forebay_api.function import Function, FunctionKey

log = structlog.get_logger(__name__)

FUNCTIONS = Gauge("forebay_functions", "Functions that exist.")


class LoadedFunctions(Protocol):
    """All functions that exist now, and in words what kept others from existing."""

    @property
    def functions(self) -> Mapping[FunctionKey, Function]: ...

    @property
    def problems(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Known:
    """``first_seen``: unix seconds at which this operator first heard of the function."""

    function: Function
    first_seen: float


class Functions:
    """``changed(before, after)`` is called after each change, before the next pass."""

    def __init__(
        self,
        *,
        changed: Callable[[Mapping[FunctionKey, Known], Mapping[FunctionKey, Known]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._changed = changed
        self._clock = clock
        self._problems: tuple[str, ...] = ()
        self.known: Mapping[FunctionKey, Known] = {}

    async def follow(self, source: AsyncIterator[LoadedFunctions]) -> None:
        async for loaded in source:
            self.apply(loaded)

    def apply(self, loaded: LoadedFunctions) -> None:
        now = self._clock()
        before = self.known
        self.known = {
            key: Known(function, before[key].first_seen if _same(before.get(key), function) else now)
            for key, function in loaded.functions.items()
        }
        for problem in loaded.problems:
            if problem not in self._problems:
                log.warning("function refused", problem=problem)
        self._problems = loaded.problems
        FUNCTIONS.set(len(self.known))
        if before != self.known:
            _tell(before, self.known)
            self._changed(before, self.known)


def _same(known: Known | None, function: Function) -> bool:
    """Deleted and made anew under the same name is another function."""
    return known is not None and known.function.uid == function.uid


def _tell(before: Mapping[FunctionKey, Known], after: Mapping[FunctionKey, Known]) -> None:
    for key, known in after.items():
        if before.get(key) != known:
            log.info("function applied", function=str(key), generation=known.function.generation)
    for key in before:
        if key not in after:
            log.info("function deleted", function=str(key))
