"""The operator's own certificate: the leader sees that there are any, and each replica fetches its own."""

from __future__ import annotations

import asyncio
import time

import structlog

from forebay_operator.cluster import certificates
from forebay_operator.cluster.api import Api, ApiError
from forebay_operator.cluster.config import Certificates, ClusterConfig
from forebay_operator.cluster.duty import duty
from forebay_operator.cluster.leadership import Leadership

log = structlog.get_logger(__name__)

FETCH = 60.0
"""Seconds from fetch to fetch: somebody may have renewed them."""

FAILED = 10.0
"""Seconds until the next attempt after one that failed."""

MISSING = 1.0
"""The same while there are none; and from one attempt to the next at least."""


class Papers:
    """``there`` is set once there is something to show to others, at once where all is in plain text."""

    def __init__(self, config: ClusterConfig, api: Api, leadership: Leadership) -> None:
        self._config = config
        self._api = api.while_true(leadership.lasts)
        self._leadership = leadership
        self._said = ""
        self.there = asyncio.Event()
        if config.identity is None:
            self.there.set()

    async def run(self) -> None:
        """Until cancelled."""
        if self._config.identity is not None:
            await duty("certificates", self._keep, asyncio.Event(), MISSING)

    async def _keep(self, now: float) -> float:
        """Returns when to look again, in unix seconds."""
        due = now + FETCH
        try:
            if self._config.certificates is Certificates.MANAGED and self._leadership.term:
                due = min(due, await certificates.keep(self._api, self._config.namespace, self._config.release, now))
            if self._config.identity is not None:
                folder = self._config.identity.folder
                await certificates.fetch(self._api, self._config.namespace, self._config.release, folder)
        except (ApiError, OSError) as error:
            if self._said != str(error):
                log.warning("no certificates", in_use=self.there.is_set(), error=str(error))
            self._said = str(error)
            return time.time() + (FAILED if self.there.is_set() else MISSING)
        self._said = ""
        self.there.set()
        return due
