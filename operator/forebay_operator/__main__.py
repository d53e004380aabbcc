"""`python -m forebay_operator -f FILE…`: the operator alone, its functions from files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from forebay_operator.config import InvalidSetting, OperatorConfig
from forebay_operator.files import FunctionFiles
from forebay_operator.listen import CannotListen
from forebay_operator.logs import log_to
from forebay_operator.server import serve


async def run(config: OperatorConfig, files: FunctionFiles, *, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(serve(config, files.watch(), ready=ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> int:
    """Exit status 2 for what the caller can put right, with a line that says how."""
    parser = argparse.ArgumentParser(prog="python -m forebay_operator", description=__doc__)
    parser.add_argument("-f", "--file", action="append", type=Path, required=True, metavar="FILE", dest="files")
    paths: list[Path] = parser.parse_args().files
    log_to()
    try:
        config = OperatorConfig.from_env()
        files = FunctionFiles(paths)
        if problems := files.load().problems:
            raise InvalidSetting("\n".join(problems))
        asyncio.run(run(config, files, ready=lambda: None))
    except (InvalidSetting, CannotListen) as error:
        sys.stderr.write(f"forebay operator: {error}\n")
        return 2
    except OSError as error:  # of the state folder, which others find us by
        sys.stderr.write(f"forebay operator: {error.filename or config.state}: {error.strerror or error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
