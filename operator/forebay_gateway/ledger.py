"""Bytes that requests make the gateway hold: bodies while they are read, prompts, and answers until they are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import TracebackType

from forebay_api.function import FunctionKey
from forebay_gateway import errors

OF_FUNCTION = 0.5
OF_NAMESPACE = 0.75
"""Of the limit, that one function and all of one namespace may have: others' requests are taken all the same."""

UNADDRESSED = "no function yet"
"""Whose requests are that say in their body alone which function they mean, while they are read."""


class Ledger:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.by_owner: Counter[str] = Counter()

    def open(self, key: FunctionKey | None) -> Held:
        """``key``: of the function that it is for, None where that is not known yet."""
        return Held(self, key)


class Held:
    """One request's entry in the ledger. A context manager."""

    def __init__(self, ledger: Ledger, key: FunctionKey | None) -> None:
        self.bytes = 0
        self._ledger = ledger
        self._key = key

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count(-self.bytes)

    def add(self, nbytes: int) -> None:
        """Raises QueueFull."""
        books = self._ledger
        if books.used + nbytes > books.limit:
            raise errors.QueueFull(
                f"requests hold {books.used} bytes here, and {books.limit} is the limit", retry_after=1
            )
        for owner, share in self._owners():
            if books.by_owner[owner] + nbytes > (most := int(share * books.limit)):
                raise errors.QueueFull(
                    f"requests of {owner} hold {books.by_owner[owner]} bytes here, and {most} is their limit",
                    retry_after=1,
                )
        self._count(nbytes)

    def become(self, nbytes: int, key: FunctionKey) -> None:
        """What was held is gone, and ``nbytes`` for the function of ``key`` are there instead. Raises QueueFull."""
        self._count(-self.bytes)
        self._key = key
        self.add(nbytes)

    def _owners(self) -> Iterator[tuple[str, float]]:
        if self._key is None:
            yield UNADDRESSED, OF_FUNCTION
        else:
            yield str(self._key), OF_FUNCTION
            yield f"namespace {self._key.namespace}", OF_NAMESPACE

    def _count(self, nbytes: int) -> None:
        self.bytes += nbytes
        self._ledger.used += nbytes
        for owner, _ in self._owners():
            self._ledger.by_owner[owner] += nbytes
            if not self._ledger.by_owner[owner]:
                del self._ledger.by_owner[owner]
