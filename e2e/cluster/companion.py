"""What `forebay get` and its siblings say of the test bed's cluster: the operator's own view of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from testbed.shell import run

FOREBAY = Path(sys.prefix) / "bin" / "forebay"
CONTEXT = "--kube-context=testbed"


def says(*words: object) -> str:
    """What ``forebay`` printed; raises `Failed`."""
    return run(FOREBAY, *words, CONTEXT, limit=120)


def workers() -> list[dict[str, Any]]:
    """Those that the leading operator knows; raises `Failed` where none leads."""
    return _found("workers")


def pipelines() -> list[dict[str, Any]]:
    """Of all functions; raises `Failed` as `workers` does."""
    return _found("pipelines")


def _found(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(says("get", kind, "-o", "json"))
    return found
