"""A pool of two nodes."""

from __future__ import annotations

import pytest

from cluster_pools.stand import CACHE, Stand
from cluster_pools.store import node_body, pool_body


@pytest.fixture
def stand() -> Stand:
    made = Stand()
    made.store.put(pool_body(cache=CACHE))
    made.store.put(node_body("a"))
    made.store.put(node_body("b"))
    return made
