"""The Secrets that functions name for fetching their models: read when they are first asked for, and now and then anew.

They are kept in memory only, and forgotten when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from forebay_operator.cluster.api import Api, ApiError, NotFound
from forebay_operator.cluster.duty import carefully
from forebay_operator.cluster.kinds import KINDS
from forebay_operator.credentials import Refused, SecretKey, Token

log = structlog.get_logger(__name__)

FRESH = 60.0
"""Seconds after which what was read is read again when it is asked for."""

DOUBTED = 5.0
"""The same, without being asked for, of one that did not help: somebody is about to correct it."""

KEPT = 600.0
"""Seconds after the last question in which it stays in memory."""

AGAIN = 5.0
"""Seconds until a read that told nothing is tried again."""

FORBIDDEN = 403
FIELD = "spec.model.credentials"


@dataclass(slots=True)
class _Kept:
    answer: Token | Refused | None = None
    read_at: float = -FRESH
    asked_at: float = 0.0
    doubted_at: float = -FRESH

    def doubted(self, now: float) -> bool:
        """Who doubts says so in every pass, of which there are several in this time."""
        return now - self.doubted_at < FRESH

    def due_at(self, now: float) -> float:
        return self.read_at + (DOUBTED if self.doubted(now) else FRESH)


class Secrets:
    """Credentials of a cluster. ``changed`` is called when there is another answer than before."""

    def __init__(self, api: Api, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._changed = changed
        self._clock = clock
        self._kept: dict[SecretKey, _Kept] = {}
        self._news = asyncio.Event()

    def find(self, wanted: SecretKey, *, doubted: bool = False) -> Token | Refused | None:
        now = self._clock()
        kept = self._kept.setdefault(wanted, _Kept())
        kept.asked_at = now
        if doubted:
            if not kept.doubted(now):
                self._news.set()
            kept.doubted_at = now
        if now >= kept.due_at(now):
            self._news.set()
            if isinstance(kept.answer, Refused) and not doubted:
                kept.answer = None  # what was wrong then ends nothing now: whoever asks hears of what is read
        return kept.answer

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._due()
            silent = False
            with carefully("secrets"):
                silent = await self._read_due()
            if silent:
                await asyncio.sleep(AGAIN)
                self._news.set()

    async def _due(self) -> None:
        """Wait until somebody asks for one that is too old, or one that is doubted is."""
        now = self._clock()
        waits = [kept.due_at(now) - now for kept in self._kept.values() if kept.doubted(now)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._news.wait()
        self._news.clear()

    async def _read_due(self) -> bool:
        """Whether one of them could not be read."""
        now = self._clock()
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept.asked_at < KEPT}
        silent = False
        for key, kept in list(self._kept.items()):
            if now < kept.due_at(now):
                continue
            try:
                answer = await self._read(key)
            except ApiError as error:  # what is known goes on being used
                log.warning("a Secret cannot be read", namespace=key.namespace, name=key.name, error=str(error))
                silent = True
                continue
            kept.read_at = self._clock()
            if answer != kept.answer:
                kept.answer = answer
                self._changed()
        return silent

    async def _read(self, key: SecretKey) -> Token | Refused:
        """Raises ApiError where nothing is said of the Secret: a server that fails, a login that has ended."""
        where = f"Secret {key.namespace}/{key.name}"
        try:
            secret = await self._api.get(KINDS.SECRET, key.namespace, key.name)
        except NotFound:
            return Refused(f"{FIELD}: there is no {where}")
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            return Refused(f"{FIELD}: the operator may not read {where}: list it in the chart's credentials.secrets")
        encoded = (secret.get("data") or {}).get(key.key)
        if not encoded:
            return Refused(f"{FIELD}: {where} has no key {key.key}")
        try:
            return Token(base64.b64decode(encoded, validate=True).decode().strip())
        except (binascii.Error, UnicodeDecodeError):
            return Refused(f"{FIELD}: key {key.key} of {where} is no text")
