"""The operator's own certificate: the leader sees that there are any, and each replica fetches its own."""

from __future__ import annotations

import asyncio
import importlib
import time

import structlog

from forebay_operator.cluster.api import Api, ApiError
from forebay_operator.cluster.config import Certificates, ClusterConfig
from forebay_operator.cluster.leadership import Leadership

log = structlog.get_logger(__name__)

FETCH = 60.0
"""Seconds from fetch to fetch: somebody may have renewed them."""

MISSING = 1.0
"""Seconds from attempt to attempt while there are none."""


class Papers:
    """``there`` is set once there is something to show to others, at once where all is in plain text."""

    def __init__(self, config: ClusterConfig, api: Api, leadership: Leadership) -> None:
        self._config = config
        self._api = api
        self._leadership = leadership
        self.there = asyncio.Event()
        if config.identity is None:
            self.there.set()

    async def run(self) -> None:
        """Until cancelled."""
        identity = self._config.identity
        if identity is None:
            return
        certificates = importlib.import_module("forebay_operator.cluster.certificates")
        config = self._config
        said = ""
        while True:
            wait = FETCH
            try:
                if config.certificates is Certificates.MANAGED and self._leadership.term:
                    due = await certificates.keep(self._api, config.namespace, config.release, time.time())
                    wait = min(wait, max(MISSING, due - time.time()))
                await certificates.fetch(self._api, config.namespace, config.release, identity.folder)
                self.there.set()
                said = ""
            except (ApiError, OSError) as error:
                if said != str(error):
                    log.warning("no certificates yet" if not self.there.is_set() else "certificates", error=str(error))
                said = str(error)
                wait = MISSING if not self.there.is_set() else FETCH / 6
            await asyncio.sleep(wait)
