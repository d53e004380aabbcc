"""`python -m forebay_operator`: the operator alone; functions from files (`-f FILE…`) or a cluster (`--cluster`)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

from forebay_process.early import end_at_sigterm

if __name__ == "__main__":
    end_at_sigterm()

from forebay_operator.config import InvalidSetting, OperatorConfig
from forebay_operator.listen import CannotListen
from forebay_process.logs import log_to


async def run(serving: Coroutine[None, None, None]) -> None:
    """Until it ends, or until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serving)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def from_files(paths: list[Path]) -> Callable[[], Coroutine[None, None, None]]:
    """Raises InvalidSetting."""
    from forebay_operator.files import FunctionFiles
    from forebay_operator.server import serve

    if folder := os.environ.get("FOREBAY_TLS"):  # in plain text it would be less than somebody believes
        raise InvalidSetting(
            f"FOREBAY_TLS={folder!r}: an operator of files speaks plain text; unset it, or use --cluster"
        )
    config = OperatorConfig.from_env()
    files = FunctionFiles(paths)
    if problems := files.load().problems:
        raise InvalidSetting("\n".join(problems))
    return lambda: serve(config, files.watch(), ready=lambda: None)


def from_cluster() -> Callable[[], Coroutine[None, None, None]]:
    """Raises InvalidSetting."""
    # Local mode needs neither kopf nor the Kubernetes client.
    from forebay_operator.cluster.config import ClusterConfig
    from forebay_operator.cluster.login import CannotLogIn
    from forebay_operator.cluster.run import run

    config = ClusterConfig.from_env()

    async def serve() -> None:
        try:
            await run(config)
        except CannotLogIn as error:
            raise InvalidSetting(str(error)) from error

    return serve


def main() -> int:
    """Exit status 2 for what the caller can put right, with a line that says how."""
    parser = argparse.ArgumentParser(prog="python -m forebay_operator", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-f", "--file", action="append", type=Path, metavar="FILE", dest="files")
    where.add_argument("--cluster", action="store_true", help="settings come from the environment")
    arguments = parser.parse_args()
    log_to()
    try:
        serve = from_cluster() if arguments.cluster else from_files(arguments.files)
        asyncio.run(run(serve()))
    except (InvalidSetting, CannotListen) as error:
        sys.stderr.write(f"forebay operator: {error}\n")
        return 2
    except OSError as error:  # of the state folder, which others find us by
        sys.stderr.write(f"forebay operator: {error.filename or ''}: {error.strerror or error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
