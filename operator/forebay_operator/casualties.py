"""Workers that ended while they were asked, and which question it was that ended them.

A worker is asked many things at a time, and when it ends nobody knows which of them it was: all are suspected. One that
is suspected is asked by itself, so that the next end is its own doing, and an answer shows that it is harmless.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from forebay_operator.subject import Subject

MOST = 3
"""Workers that one subject may end before nobody is asked any more: a worker may also end by itself."""


@dataclass(slots=True)
class Casualties:
    """By suspect, the workers that ended while they were asked that alone."""

    of: dict[Subject, int] = field(default_factory=dict)

    def may_join(self, subject: Subject, others: Collection[Subject]) -> bool:
        """Whether a worker that is being asked ``others`` may be asked ``subject`` too."""
        return not others or self.of.keys().isdisjoint({subject, *others})

    def ended(self, subjects: Collection[Subject]) -> None:
        """A worker did that was asked these."""
        for subject in subjects:
            self.of[subject] = self.of.get(subject, 0) + (len(subjects) == 1)

    def deadly(self, subject: Subject) -> bool:
        return self.of.get(subject, 0) >= MOST

    def acquit(self, subject: Subject) -> None:
        self.of.pop(subject, None)
