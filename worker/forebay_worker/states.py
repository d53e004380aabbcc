"""State machines as tables: which event leads where, and nothing else.

An event that is not in a table is an error that names both, so that a case nobody thought of is seen at once instead
of being lived with. May not live here: anything that acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class NoSuchTransition(Exception):
    """An event came in a state whose row does not have it."""


class Table(Generic[S, E]):
    """The transitions of one kind of thing, ``name`` in error messages."""

    def __init__(self, name: str, transitions: Mapping[tuple[S, E], S]) -> None:
        self.name = name
        self._transitions = MappingProxyType(dict(transitions))

    def next(self, state: S, event: E) -> S:
        """The state after ``event``. Raises NoSuchTransition naming state and event."""
        try:
            return self._transitions[state, event]
        except KeyError:
            raise NoSuchTransition(f"{self.name}: event {event} has no place in state {state}") from None

    def allows(self, state: S, event: E) -> bool:
        return (state, event) in self._transitions


class WorkerState(StrEnum):
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    FAULTED = "Faulted"
    STOPPED = "Stopped"


class WorkerEvent(StrEnum):
    LISTENING = "listening"  # every server answers
    STOP = "stop"  # SIGTERM
    FAULT = "fault"  # the device is sick
    ABSOLVED = "absolved"  # it was the weights
    DONE = "done"  # nothing runs any more, or the grace is over


WORKER = Table[WorkerState, WorkerEvent](
    "worker",
    {
        (WorkerState.STARTING, WorkerEvent.LISTENING): WorkerState.READY,
        (WorkerState.STARTING, WorkerEvent.STOP): WorkerState.DRAINING,
        (WorkerState.STARTING, WorkerEvent.FAULT): WorkerState.FAULTED,
        (WorkerState.READY, WorkerEvent.STOP): WorkerState.DRAINING,
        (WorkerState.READY, WorkerEvent.FAULT): WorkerState.FAULTED,
        (WorkerState.DRAINING, WorkerEvent.STOP): WorkerState.DRAINING,
        (WorkerState.DRAINING, WorkerEvent.FAULT): WorkerState.FAULTED,
        (WorkerState.DRAINING, WorkerEvent.DONE): WorkerState.STOPPED,
        (WorkerState.FAULTED, WorkerEvent.FAULT): WorkerState.FAULTED,
        (WorkerState.FAULTED, WorkerEvent.ABSOLVED): WorkerState.READY,
        (WorkerState.FAULTED, WorkerEvent.LISTENING): WorkerState.FAULTED,
        (WorkerState.FAULTED, WorkerEvent.STOP): WorkerState.FAULTED,
        (WorkerState.FAULTED, WorkerEvent.DONE): WorkerState.STOPPED,
    },
)
