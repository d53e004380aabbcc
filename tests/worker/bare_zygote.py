"""A zygote whose workers do nothing: ``python bare_zygote.py FOLDER BEHAVIOUR [FLAG...]``. Imports no torch.

Each worker leaves a file ``w0.<pid>`` in FOLDER, then behaves: ``sleep``, ``stubborn`` (not on SIGTERM), ``crash``,
``newborn`` (the first of all gets SIGTERM as soon as it is forked), or ``compute``: the first w0 says that it does, and
w1 writes to ``neighbours`` how many it sees computing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from forebay_process.logs import log_to
from forebay_worker.config import OneLineParser, add_serve_flags, read_serve_flags
from forebay_worker.zygote import Seat, Zygote, end_with_parent


def behave(behaviour: str, seat: Seat) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else signal.SIG_DFL)
    for purpose in ("engine", "hop"):
        seat.config.socket(seat.name, purpose).touch()
    (seat.config.state / f"{seat.name}.{seat.pid}").touch()
    if behaviour == "compute" and seat.index == 0 and len(list(seat.config.state.glob("w0.*"))) == 1:
        seat.cores.work()
    while behaviour == "compute" and seat.index == 1:
        (seat.config.state / "neighbours").write_text(str(seat.cores.busy_neighbours))
        time.sleep(0.01)
    while behaviour != "crash":
        signal.pause()
    return 3


def told_at_birth(told: Path) -> None:
    if not told.exists():
        told.touch()
        os.kill(os.getpid(), signal.SIGTERM)


def main(folder: str, behaviour: str, *flags: str) -> None:
    parser = OneLineParser()
    add_serve_flags(parser, {})
    given = parser.parse_args(["--operator", "unix:/nowhere", "--state", folder, "--drain-seconds", "0.1", *flags])
    config = read_serve_flags(parser, given)
    if config.die_with_parent is not None:
        end_with_parent(signal.SIGTERM, config.die_with_parent)
    log_to()
    (Path(folder) / "sockets").mkdir()
    if behaviour == "newborn":
        os.register_at_fork(after_in_child=lambda: told_at_birth(Path(folder) / "told"))
    nothing: Any = ()
    Zygote(config, nothing, lambda seat: behave(behaviour, seat)).run()
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
