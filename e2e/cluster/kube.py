"""kubectl for tests: every call has a deadline, and what never came is said with what was seen last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from testbed.shell import Failed, ran, run

Body = dict[str, Any]
Seen = TypeVar("Seen")

PATIENCE = 90.0
"""Seconds until a condition that must come is called a failure."""
CALL = 30.0
LOOKING = 0.3


class NotFound(AssertionError):
    """There is no such object."""


def kubectl(*arguments: object, stdin: str | None = None, limit: float = CALL) -> str:
    """What kubectl printed; raises `Failed`."""
    return run("kubectl", *arguments, stdin=stdin, limit=limit)


def refused(*arguments: object, stdin: str | None = None) -> str:
    """What kubectl complained; fails if it did not."""
    done = ran("kubectl", *arguments, stdin=stdin, limit=CALL)
    assert done.returncode, f"kubectl {' '.join(map(str, arguments))} went well: {done.stdout}"
    return done.stderr


def apply(*bodies: Body, namespace: str = "") -> None:
    whole = {"apiVersion": "v1", "kind": "List", "items": list(bodies)}
    kubectl("apply", "-f", "-", *_in(namespace), stdin=json.dumps(whole))


def get(kind: str, name: str, namespace: str = "") -> Body:
    """Raises `NotFound`, or `Failed` if the API server does not answer."""
    done = ran("kubectl", "get", kind, name, *_in(namespace), "-o", "json", limit=CALL)
    if done.returncode:
        if "NotFound" in done.stderr:
            raise NotFound(f"{kind} {namespace}/{name}")
        raise Failed(done.stderr.strip())
    return dict(json.loads(done.stdout))


def listed(kind: str, namespace: str = "", selector: str = "") -> list[Body]:
    chosen = ("-l", selector) if selector else ()
    return list(json.loads(kubectl("get", kind, *_in(namespace), *chosen, "-o", "json"))["items"])


def delete(kind: str, name: str, namespace: str = "", *, wait: bool = True, grace: int | None = None) -> None:
    more = () if grace is None else (f"--grace-period={grace}",)
    kubectl(
        "delete", kind, name, *_in(namespace), "--ignore-not-found", f"--wait={str(wait).lower()}", *more, limit=120
    )


def until(look: Callable[[], Seen], holds: Callable[[Seen], object], what: str, limit: float = PATIENCE) -> Seen:
    """The first thing seen for which ``holds`` is true. Fails with the last one seen; a failed look is looked again."""
    end, last = time.monotonic() + limit, ""
    while time.monotonic() < end:
        try:
            seen = look()
        except (Failed, NotFound) as error:
            last = str(error)
        else:
            if holds(seen):
                return seen
            last = json.dumps(seen, indent=1, default=str)
        time.sleep(LOOKING)
    raise AssertionError(f"never came in {limit:g} s: {what}\nlast seen: {last[-6000:]}")


def condition(body: Body, kind: str) -> str:
    """`True`, `False` or `Unknown`; empty if the object says nothing of it."""
    for found in body.get("status", {}).get("conditions", ()):
        if found["type"] == kind:
            return str(found["status"])
    return ""


def reason(body: Body, kind: str) -> str:
    for found in body.get("status", {}).get("conditions", ()):
        if found["type"] == kind:
            return str(found["reason"])
    return ""


def _in(namespace: str) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()
