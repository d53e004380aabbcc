"""Every process writes the same log: one JSON object a line, also what libraries say."""

from __future__ import annotations

import json
import subprocess
import sys

SAY = """
import logging, structlog
from forebay_process.logs import log_to
log_to(worker="w0")
structlog.get_logger("ours").info("hello", function="default/a")
logging.getLogger("grpc").warning("theirs %d", 7)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("broke")
"""


def test_the_keys_are_the_same_whoever_speaks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAY],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ours, theirs, broke = map(json.loads, done.stderr.splitlines())
    assert ours.keys() == {"ts", "level", "logger", "event", "function", "worker"}
    assert theirs.keys() == {"ts", "level", "logger", "event", "worker"}
    assert (theirs["logger"], theirs["level"], theirs["event"]) == ("grpc", "warning", "theirs 7")
    assert "ZeroDivisionError" in broke["exception"]
