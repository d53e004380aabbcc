"""Every device of both nodes has its worker: eight of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cluster.conftest import LINK, USUAL
from cluster.installed import Installed
from testbed import release
from testbed.cluster import Cluster

from cluster import kube
from local.system import chat

if TYPE_CHECKING:
    from local.reference import Reference

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

EACH, REPLICAS = 4, 3
ALL_UP = 400.0
"""Eight workers import torch on cores that they share."""
PROMPT, TOKENS = "Name a colour.", 8


@pytest.fixture
def eight(bed: Cluster, forebay: Installed) -> Iterator[Installed]:
    """Four workers on each node, and one again afterwards."""
    release.install(bed, release.Settings(workers=EACH, env={"FOREBAY_LINK_RATE": LINK}))
    yield forebay
    for name in list(forebay.applied):
        forebay.remove(name)
    release.install(bed, USUAL)
    forebay.settled("worker", 2, ALL_UP)


async def test_all_eight_serve(eight: Installed, real: Reference) -> None:
    pods = await asyncio.to_thread(eight.settled, "worker", 2 * EACH, ALL_UP)
    assert Counter(pod["spec"]["nodeName"] for pod in pods) == {"node1": EACH, "node2": EACH}
    pool = await asyncio.to_thread(
        kube.until,
        lambda: kube.get("wpool", "default", eight.namespace),
        lambda pool: kube.condition(pool, "Ready") == "True" and pool["status"]["readyWorkers"] == 2 * EACH,
        "the pool is Ready",
    )
    assert pool["status"]["desiredWorkers"] == 2 * EACH
    scaling = {"minReplicas": REPLICAS, "maxReplicas": REPLICAS}
    await asyncio.to_thread(eight.apply, "wide", scaling=scaling)
    await asyncio.to_thread(
        kube.until,
        lambda: eight.look("wide"),
        lambda body: body.get("status", {}).get("readyReplicas") == REPLICAS,
        f"{REPLICAS} replicas are ready",
        ALL_UP,
    )
    async with eight.client("wide") as client:
        answers = await asyncio.gather(*(chat(client, "wide", PROMPT, max_tokens=TOKENS) for _ in range(2 * REPLICAS)))
    for answer in answers:
        real.check(answer, PROMPT, TOKENS, chat=True)
