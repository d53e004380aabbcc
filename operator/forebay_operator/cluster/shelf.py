"""Objects of one kind as a watch shows them, event by event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forebay_operator.cluster.seen import Body


class Shelf:
    """Kept by uid: of an object that was deleted and made anew under its name, late news of the old one harm nothing.

    ``managedFields`` are left out: they are half of every body and nobody reads them. ``revision`` grows with news."""

    def __init__(self, *, by_generation: bool = False) -> None:
        """``by_generation``: of a kind whose status is ours, so that what is written there is no news."""
        self._by_generation = by_generation
        self.revision = 0
        self._bodies: dict[str, Body] = {}
        self._named: dict[tuple[str, str], Body] | None = None
        self._touched: set[tuple[str, str]] = set()

    @property
    def uids(self) -> Collection[str]:
        return self._bodies.keys()

    def version(self, uid: str) -> str:
        """That is shown, empty: none."""
        body = self._bodies.get(uid)
        return version(body) if body is not None else ""

    def take(self, event: str | None, body: Body) -> bool:
        """``event`` is the watch's: ADDED, MODIFIED, DELETED, None for one of a list. Whether anything changed."""
        uid = str(body["metadata"]["uid"])
        known = self._bodies.get(uid)
        if event == "DELETED":
            return self.drop((uid,))
        if known is not None and version(known) == version(body):
            return False
        metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
        self._bodies[uid] = kept = {**body, "metadata": metadata}
        self._touched.add(_name(metadata))
        if known is None or not self._by_generation or _wish(known) != _wish(body):
            self.revision += 1
        if known is not None and self._named is not None and self._named.get(_name(metadata)) is known:
            self._named[_name(metadata)] = kept
        else:
            self._named = None
        return True

    def drop(self, uids: Collection[str]) -> bool:
        """Whether any of them was there."""
        known = self._bodies.keys() & frozenset(uids)
        for uid in known:
            self._touched.add(_name(self._bodies.pop(uid)["metadata"]))
            self._named = None
            self.revision += 1
        return bool(known)

    def touched(self) -> set[tuple[str, str]]:
        """Namespaces and names of what changed since this was last asked."""
        found, self._touched = self._touched, set()
        return found

    def named(self) -> Mapping[tuple[str, str], Body]:
        """By namespace (empty for kinds without) and name: the newest of each."""
        if self._named is None:
            self._named = self._by_name()
        return self._named

    def _by_name(self) -> dict[tuple[str, str], Body]:
        found: dict[tuple[str, str], Body] = {}
        for body in sorted(self._bodies.values(), key=_age):
            found[_name(body["metadata"])] = body
        return found


def _wish(body: Body) -> tuple[object, object]:
    metadata = body["metadata"]
    return metadata.get("generation"), metadata.get("deletionTimestamp")


def version(body: Body) -> str:
    return str(body["metadata"].get("resourceVersion", ""))


def _name(metadata: Any) -> tuple[str, str]:
    return str(metadata.get("namespace") or ""), str(metadata["name"])


def _age(body: Body) -> tuple[str, bool]:
    """Of two with one name, the one being deleted is the older one (creation times are whole seconds)."""
    metadata = body["metadata"]
    return str(metadata.get("creationTimestamp", "")), not metadata.get("deletionTimestamp")
