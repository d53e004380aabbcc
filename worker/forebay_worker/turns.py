"""Work in turns: what is given for one key runs in the order given; keys do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

failed_total = Counter(
    "forebay_worker_commands_failed_total", "Commands that ended in an unforeseen error", ["command"]
)
for _command in ("inspect", "prepare", "hold", "drop", "form", "drain", "dissolve"):
    failed_total.labels(_command)  # from the start: a rate sees no rise where there was nothing before


class Turns:
    """Lives on the loop. An error ends one piece of work, with a log line and a count; the next one runs."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[None, None, None], key: str = "") -> None:
        """Run ``work`` after what was started before under ``key``; at once when the key is empty."""
        task = asyncio.create_task(self._run(name, work, self._last.get(key) if key else None), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if key:
            self._last[key] = task
            task.add_done_callback(lambda done: self._last.pop(key) if self._last.get(key) is done else None)

    async def close(self) -> None:
        """Cancel what has not ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str, work: Coroutine[None, None, None], before: asyncio.Task[None] | None) -> None:
        try:
            if before:
                await asyncio.wait([before])
            await work
        except Exception:
            failed_total.labels(name).inc()
            log.exception("command.failed", command=name)
        finally:
            work.close()  # cancelled before its turn came
