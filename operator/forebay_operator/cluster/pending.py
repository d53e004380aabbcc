"""Events that are yet to be told: at most one of each reason of a function, and what is over by then not at all.

So what waits follows from how things are, not from how often they changed, and there is room for it whatever happens to
however many functions at once. Events of other objects have a limit together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set
from dataclasses import dataclass, replace

ENDS = {"ScalingSees": "ScalingBlind"}
"""An event that says that another one is over. Where that was not told yet, neither is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an event is about; ``namespace`` empty for kinds without."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Told:
    """``reason``: one CamelCase word; ``note``: a sentence. With another note it is the same event again, if it is
    ``alike``; empty: only with the same note. ``begins``: what it tells of was not so before."""

    subject: Subject
    reason: str
    note: str
    warning: bool = False
    alike: str = ""
    begins: bool = False


class Pending:
    """``limit``: of events that are not about functions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[tuple[str, str | int], Told] = OrderedDict()
        self._others = 0
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def of_function(self, told: Told) -> None:
        """In place of one of its reason that nobody heard of yet."""
        uid = told.subject.uid
        over = self._waiting.pop((uid, ENDS.get(told.reason, "")), None)
        if over and over.begins:
            return
        before = self._waiting.pop((uid, told.reason), None)  # to the end: in the order of what is so now
        self._waiting[uid, told.reason] = replace(told, begins=True) if before and before.begins else told

    def of_other(self, told: Told) -> bool:
        """Whether there was room."""
        if self._others >= self._limit:
            return False
        self._others += 1
        self._serial += 1
        self._waiting["", self._serial] = told
        return True

    def keep(self, uids: Set[str]) -> None:
        """Forget functions that are gone."""
        for key in [key for key in self._waiting if key[0] and key[0] not in uids]:
            del self._waiting[key]

    def pop(self) -> Told:
        """What waits longest. Raises KeyError when nothing does."""
        (uid, _), told = self._waiting.popitem(last=False)
        if not uid:
            self._others -= 1
        return told
