"""Prompts become tokens in threads of their own, one at a time for each backbone: templates and tokenizers come with
models, from anybody, and what they do with a prompt may have no end.

    in time      ▸ tokens
    not in time  ▸ the caller is told, and the thread is told to end. Until it has, nothing is read for its backbone

May not live here: what reading is (``engine.text``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)

PATIENCE = 60.0
"""Seconds for one prompt: reading megabytes of text takes many of them."""

overdue_total = Counter("forebay_prompts_overdue_total", "Prompts that a template or tokenizer did not finish in time")

T = TypeVar("T")


class Overdue(Exception):
    """A prompt could not be read in time; the text is for whoever sent it."""


class _GivenUp(BaseException):
    """Ends what runs in a thread, wherever it is: no template can catch it."""


class Reading:
    """Lives on the loop. There is one thread at most for each backbone."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lingering: dict[str, threading.Thread] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    async def read(self, backbone: str, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises; Overdue when it takes too long. Who is cancelled leaves it to run on."""
        turn = self._turns.setdefault(backbone, asyncio.Lock())
        await turn.acquire()
        task = asyncio.create_task(self._run(backbone, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: turn.release())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits for it
        return await asyncio.shield(task)

    async def _run(self, backbone: str, work: Callable[[], T]) -> T:
        lingering = self._lingering.get(backbone)
        if lingering and lingering.is_alive():
            raise Overdue("prompt: the model's chat template or tokenizer has not come back from an earlier one")
        self._lingering.pop(backbone, None)
        found: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=_work, args=(work, found), name="prompt", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(PATIENCE):
                return await found
        except TimeoutError:
            overdue_total.inc()
            log.error("prompt overdue", backbone=backbone, phase="read")
            self._lingering[backbone] = thread
            _give_up(thread)
            raise Overdue(
                f"prompt: the model's chat template or tokenizer did not finish it within {PATIENCE:.0f} s"
            ) from None


def _work(work: Callable[[], T], found: asyncio.Future[T]) -> None:
    """In a thread."""
    settle: Callable[[], None]
    try:
        settle = partial(found.set_result, work())
    except _GivenUp:
        return
    except BaseException as error:  # noqa: BLE001, passed on
        settle = partial(found.set_exception, error)

    def tell() -> None:
        if not found.done():  # else nobody waits any more
            settle()

    with contextlib.suppress(RuntimeError):  # the loop has closed
        found.get_loop().call_soon_threadsafe(tell)


def _give_up(thread: threading.Thread) -> None:
    """Python between two of its instructions can be ended; what runs below it comes back first, if it does."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_GivenUp))
