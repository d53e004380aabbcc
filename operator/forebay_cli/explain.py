"""Why a function has as many replicas as it has: the decision in words, its numbers, and the ones before."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from forebay_api import names
from forebay_cli.tables import Item, aligned
from forebay_cli.view import View

MOST_NAMED = 5
"""Functions that an error lists."""

AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


class NoSuchFunction(Exception):
    """Nothing to explain."""


def pick(seen: View, function: str) -> Item:
    """``function`` is NAME or NAMESPACE/NAME; of several with that name the one of namespace default. Raises
    NoSuchFunction."""
    functions: list[Item] = seen["functions"]
    found = {called(item): item for item in functions if function in (item["name"], called(item))}
    if len(found) > 1:
        choices = f"{function} is the name of several: choose {' or '.join(sorted(found))}"
        found = {name: item for name, item in found.items() if item["namespace"] == names.DEFAULT_NAMESPACE}
        if not found:
            raise NoSuchFunction(choices)
    for item in found.values():
        return item
    known = sorted(map(called, functions))
    more = [f"{len(known) - MOST_NAMED} more"] if len(known) > MOST_NAMED else []
    there = f"there are {', '.join([*known[:MOST_NAMED], *more])}" if known else "none exists"
    raise NoSuchFunction(f"there is no function {function}: {there}")


def called(function: Item) -> str:
    return f"{function['namespace']}/{function['name']}"


def text(function: Item, now: float) -> str:
    """All there is to say, for people; ``now`` in unix seconds."""
    scaling: Item | None = function.get("scaling")
    if scaling is None:
        return f"{called(function)}: nothing was decided yet"
    parts = ["\n".join(_sentences(function, scaling, now))]
    if scaling["inputs"]:
        parts.append(aligned(["INPUT", "VALUE", "AGE", "SOURCE"], [_input(given, now) for given in scaling["inputs"]]))
    titles = ["AGE", "DESIRED", "CURRENT", "REASON", "LIMIT", "MESSAGE"]
    rows = [[age(now - decision["time"]), *_cells(decision)] for decision in scaling["decisions"]]
    return "\n\n".join([*parts, aligned(titles, rows)])


def line(decision: Item) -> str:
    """One decision, with the time of the day here."""
    return f"{time.strftime('%H:%M:%S', time.localtime(decision['time']))} {_words(decision)}: {_message(decision)}"


def to_json(function: Item) -> dict[str, Any]:
    return {"namespace": function["namespace"], "name": function["name"], **(function.get("scaling") or {})}


class Watcher:
    """What there is to print of one function, ``as_json`` or for people."""

    def __init__(self, function: str, *, as_json: bool) -> None:
        self._function = function
        self._json = as_json
        self._told: float | None = None

    def all(self, seen: View, now: float) -> str:
        """Raises NoSuchFunction."""
        found = pick(seen, self._function)
        return json.dumps(to_json(found), indent=2) if self._json else text(found, now)

    def news(self, seen: View, now: float) -> Iterator[str]:
        """First everything, then each new decision, the oldest first. Raises NoSuchFunction if there was none to begin
        with; one that is missing later may come back, with the operator."""
        try:
            found = pick(seen, self._function)
        except NoSuchFunction:
            if self._told is None:
                raise
            return
        begun, last = self._told is not None, self._told or 0.0
        new = [decision for decision in reversed(_decisions(found)) if decision["time"] > last]
        self._told = max([last, *(decision["time"] for decision in new)])
        if not begun and not self._json:
            yield text(found, now)
            return
        for decision in new:
            yield json.dumps(decision) if self._json else line(decision)


def _decisions(function: Item) -> list[Item]:
    """Newest first."""
    scaling: Item = function.get("scaling") or {"decisions": []}
    found: list[Item] = scaling["decisions"]
    return found


def age(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h`` or ``5 d``; what is ahead of our clock is new."""
    for unit, word in AGES:
        if seconds >= unit:
            return f"{seconds / unit:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"


def _sentences(function: Item, scaling: Item, now: float) -> Iterator[str]:
    yield f"{called(function)}: {scaling['message']}"
    since = scaling["decisions"][0]["time"] if scaling["decisions"] else scaling["time"]
    yield f"{_words(scaling)}, for {age(now - since)}"
    for condition in function["conditions"]:
        if (condition["type"], condition["status"]) == ("ScalingActive", "False"):
            yield f"blind ({condition['reason']}): {condition['message']}"


def _words(decision: Item) -> str:
    limit = f", limited by {decision['limit']}" if decision["limit"] else ""
    return f"{decision['desired']} wanted, {decision['current']} answer ({decision['reason']}{limit})"


def _input(given: Item, now: float) -> list[str]:
    return [given["name"], f"{given['value']:g}", age(now - given["sampledAt"]), given["source"]]


def _cells(decision: Item) -> list[str]:
    numbers = [str(decision["desired"]), str(decision["current"])]
    return [*numbers, decision["reason"], decision["limit"] or "-", _message(decision)]


def _message(decision: Item) -> str:
    return "; ".join([decision["message"], *decision["paid"], *decision["received"]])
