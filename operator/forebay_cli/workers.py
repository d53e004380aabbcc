"""Worker processes as the command line starts them: a zygote that forks them, or a tool that runs and ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

STOP_SECONDS = 20.0
"""How long a zygote may take to drain and end its workers before it is killed."""

USAGE = 2
"""The status of a tool that was told what it cannot do: it would say the same again."""


class ToolFailed(Exception):
    """A worker tool ended with an error; its text is what the tool said."""

    @classmethod
    def saying(cls, words: str, status: int, output: str) -> ToolFailed:
        """``words`` it was run with; ``output``: what it wrote, of which the last line counts."""
        said = [line for line in output.splitlines() if line.strip()]
        return cls(said[-1].removeprefix("forebay_worker: ") if said else f"{words} ended with status {status}")


@dataclass(frozen=True, slots=True)
class DeviceFlags:
    """The device flags of `up`, `worker` and `plan`; ``None`` = the worker's default."""

    device: str = "auto"
    device_memory: str | None = None
    link_rate: str | None = None
    shared_link: str | None = None

    def arguments(self) -> list[str]:
        named = {
            "--device": self.device,
            "--device-memory": self.device_memory,
            "--link-rate": self.link_rate,
            "--shared-link": self.shared_link,
        }
        return [word for flag, value in named.items() if value is not None for word in (flag, value)]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "forebay_worker", *words]


def run_tool(*words: str) -> Any:
    """The JSON that a worker tool prints. Raises ToolFailed with the one line that it said."""
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolFailed.saying(" ".join(words), done.returncode, done.stderr)
    return json.loads(done.stdout)


class Zygote:
    """The child process whose children are the workers. Started again when it dies, slower each time, unless it says
    that it can never start."""

    def __init__(self, count: int, operator: str, state: Path, flags: DeviceFlags, log_file: Path) -> None:
        self._command = command(
            *("serve", "--count", str(count), "--operator", operator, "--state", str(state)),
            *("--die-with-parent", *flags.arguments()),
        )
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep it running until cancelled; then end it, workers first. Raises ToolFailed when it can never start."""
        delay = 0.1
        try:
            while True:
                with self._log_file.open("ab") as output:
                    written = output.tell()
                    self._process = await asyncio.create_subprocess_exec(
                        *self._command,
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,  # Ctrl-C is for `up`: workers serve until it has drained
                    )
                status = await self._process.wait()
                if status == USAGE:
                    raise ToolFailed.saying("serve", status, self._written_since(written))
                log.error("workers.zygote_ended", status=status, again_in=delay, output=str(self._log_file))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
        finally:
            await self._stop()

    def _written_since(self, place: int) -> str:
        """What it wrote after that many bytes of its log."""
        with self._log_file.open("rb") as log_file:
            log_file.seek(place)
            return log_file.read().decode(errors="replace")

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
