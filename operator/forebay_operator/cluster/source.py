"""The functions that the watch shows, as values; and in words what is wrong with those that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from forebay_api.function import Function, FunctionKey, InvalidFunction
from forebay_operator.cluster.seen import Body


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that passed the API server's schema when it was written, and is no function to us."""

    uid: str
    generation: int
    message: str


@dataclass(frozen=True, slots=True)
class StoredFunctions:
    """`LoadedFunctions` of a cluster."""

    functions: Mapping[FunctionKey, Function] = field(default_factory=dict)
    invalid: Mapping[FunctionKey, Invalid] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"{key}: {invalid.message}" for key, invalid in sorted(self.invalid.items()))


class Source:
    """Whoever follows it gets what there is, and then what there is after each ``changed``."""

    def __init__(self, bodies: Callable[[], Mapping[tuple[str, str], Body]]) -> None:
        self._bodies = bodies
        self._news = asyncio.Event()
        self._known: dict[tuple[str, int], Function | Invalid] = {}
        self.stored = StoredFunctions()

    def changed(self) -> None:
        self._news.set()

    async def follow(self) -> AsyncIterator[StoredFunctions]:
        while True:
            self._news.clear()
            self.stored = self._read()
            yield self.stored
            await self._news.wait()

    def _read(self) -> StoredFunctions:
        """One that is being deleted is gone. What was read once is not read again: a status that changed, and there are
        many, changes nothing here."""
        functions: dict[FunctionKey, Function] = {}
        invalid: dict[FunctionKey, Invalid] = {}
        known: dict[tuple[str, int], Function | Invalid] = {}
        for (namespace, name), body in self._bodies().items():
            metadata = body["metadata"]
            if metadata.get("deletionTimestamp"):
                continue
            version = str(metadata["uid"]), int(metadata.get("generation", 0))
            found = known[version] = self._known.get(version) or read(body)
            if isinstance(found, Function):
                functions[FunctionKey(namespace, name)] = found
            else:
                invalid[FunctionKey(namespace, name)] = found
        self._known = known
        return StoredFunctions(functions, invalid)


def read(body: Body) -> Function | Invalid:
    """One object of the API."""
    try:
        return Function.from_body(body)
    except InvalidFunction as error:
        metadata = body["metadata"]
        return Invalid(str(metadata["uid"]), int(metadata.get("generation", 0)), str(error))
