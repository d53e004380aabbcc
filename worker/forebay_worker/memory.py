"""The ledger of a device's memory: who has reserved how much of the budget. Units and KV alike need a line here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping


class OutOfMemory(Exception):
    """A reservation over the budget; the message names owner, bytes wanted, free and budget."""

    def __init__(self, owner: str, wanted: int, free: int, budget: int) -> None:
        super().__init__(f"{owner} wants {wanted} bytes of device memory; {free} of {budget} are free")
        self.owner, self.wanted, self.free, self.budget = owner, wanted, free, budget


class Reservation:
    """A line of the ledger. ``release`` gives it back, once however often it is called."""

    __slots__ = ("_memory", "nbytes", "owner")

    def __init__(self, memory: Memory, owner: str, nbytes: int) -> None:
        self._memory = memory
        self.owner = owner
        self.nbytes = nbytes

    def release(self) -> None:
        self._memory._release(self)

    def __repr__(self) -> str:
        return f"<Reservation {self.owner} {self.nbytes}>"


class Memory:
    """Thread-safe. ``budget`` in bytes; ``watch`` is called after every release, by the thread that released."""

    def __init__(self, budget: int) -> None:
        if budget < 0:
            raise ValueError(f"a memory budget is at least 0 bytes, not {budget}")
        self.budget = budget
        self._lock = threading.Lock()
        self._lines: set[Reservation] = set()
        self._used = 0
        self._watchers: list[Callable[[], None]] = []

    def reserve(self, owner: str, nbytes: int) -> Reservation:
        """Raises OutOfMemory, and then nothing has changed."""
        if nbytes < 0:
            raise ValueError(f"{owner} cannot reserve {nbytes} bytes")
        with self._lock:
            if self._used + nbytes > self.budget:
                raise OutOfMemory(owner, nbytes, self.budget - self._used, self.budget)
            line = Reservation(self, owner, nbytes)
            self._lines.add(line)
            self._used += nbytes
        return line

    def _release(self, line: Reservation) -> None:
        with self._lock:
            if line not in self._lines:
                return
            self._lines.remove(line)
            self._used -= line.nbytes
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher()

    def watch(self, released: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.append(released)

    @property
    def used(self) -> int:
        return self._used

    @property
    def free(self) -> int:
        return self.budget - self._used

    def by_owner(self) -> Mapping[str, int]:
        with self._lock:
            lines = tuple(self._lines)
        sums: dict[str, int] = {}
        for line in lines:
            sums[line.owner] = sums.get(line.owner, 0) + line.nbytes
        return sums

    def __repr__(self) -> str:
        return f"<Memory {self._used} of {self.budget}>"
