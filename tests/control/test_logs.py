"""Every process writes the same log: one JSON object a line, also what libraries say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SAY = """
import logging, structlog
from {module} import {name}
{name}()
structlog.get_logger("ours").info("hello", function="default/a")
logging.getLogger("grpc").warning("theirs %d", 7)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("broke")
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("forebay_operator.logs", "log_to"),
        ("forebay_gateway.logs", "log_to_stderr"),
        ("forebay_worker.logs", "log_to_stderr"),
    ],
)
def test_the_keys_are_the_same_everywhere(module: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(module=module, name=name)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ours, theirs, broke = map(json.loads, done.stderr.splitlines())
    assert ours.keys() == {"ts", "level", "logger", "event", "function"}
    assert theirs.keys() == {"ts", "level", "logger", "event"}
    assert (theirs["logger"], theirs["level"], theirs["event"]) == ("grpc", "warning", "theirs 7")
    assert "ZeroDivisionError" in broke["exception"]
