"""``python -m forebay_gateway``: the gateway alone, configured by ``FOREBAY_*`` variables and flags."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from forebay_process.early import end_at_sigterm

if __name__ == "__main__":
    end_at_sigterm()

from forebay_gateway.config import GatewayConfig, InvalidSetting, default_operator
from forebay_gateway.errors import CannotStart
from forebay_gateway.server import serve
from forebay_process.logs import log_to


def main() -> int:
    """Exit status 2 for what the caller can put right, with a line that says how."""
    log_to()
    try:
        asyncio.run(_run(_config()))
    except (InvalidSetting, CannotStart) as error:
        sys.stderr.write(f"forebay gateway: {error}\n")
        return 2
    return 0


async def _run(config: GatewayConfig) -> None:
    """Until SIGINT or SIGTERM; a second one does not wait for open streams."""
    task = asyncio.ensure_future(serve(config, ready=_announce))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _announce(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()


def _config() -> GatewayConfig:
    config = GatewayConfig.from_env()
    parser = argparse.ArgumentParser(
        prog="forebay gateway", description="HTTP in, answers out; holds what cannot be served yet."
    )
    parser.add_argument("--host", default=config.host)
    parser.add_argument("--port", type=int, default=config.port, help="0 = any free one")
    parser.add_argument(
        "--operator",
        default=os.environ.get("FOREBAY_OPERATOR"),
        help="gRPC targets of the operator, comma-separated (default: its socket in the state folder)",
    )
    parser.add_argument("--state", type=Path, default=config.state, help="folder where processes of one machine meet")
    parser.add_argument("--domain", default=config.domain, help="of <function>.<namespace>.<domain> host names")
    parser.add_argument("--drain-seconds", type=float, default=config.drain_seconds)
    parser.add_argument(
        "--lame-duck-seconds",
        type=float,
        default=config.lame_duck_seconds,
        help="how long new requests are still taken after SIGTERM, though /ready says no",
    )
    flags = parser.parse_args()
    return replace(
        config,
        host=flags.host,
        port=flags.port,
        operator=flags.operator or default_operator(flags.state.absolute()),
        state=flags.state.absolute(),
        domain=flags.domain,
        drain_seconds=flags.drain_seconds,
        lame_duck_seconds=flags.lame_duck_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
