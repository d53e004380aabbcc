"""`helm upgrade` and `helm rollback` while requests run; and the limit of memory that this upgrade brings, which the
kernel keeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cluster.asking import answering
from cluster.conftest import LINK, USUAL
from cluster.installed import Installed
from cluster.killing import processes, starve
from cluster.kube import Body
from testbed import release
from testbed.cluster import Cluster
from testbed.shell import run

from cluster import kube
from local.system import chat

if TYPE_CHECKING:
    from local.reference import Reference

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

ROLLED = 300.0
"""Seconds until two workers have been replaced, one after the other."""
PROMPT, TOKENS = "Name a colour.", 8
LIMIT = "3Gi"
CHANGED = release.Settings(
    gateways=3,
    env={"FOREBAY_LINK_RATE": LINK},
    values={
        **USUAL.values,
        "operator": {"podAnnotations": {"example.com/release": "second"}},
        "gateway": {"podAnnotations": {"example.com/release": "second"}},
        "workerPool": {"spec": {"resources": {"limits": {"memory": LIMIT}}}},
    },
)
KINDS = "deployments,services,secrets,configmaps,leases,persistentvolumeclaims,workerpools,serviceaccounts"


def ensure(cluster: Cluster, settings: release.Settings) -> None:
    """The release as ``settings`` say; nothing is done where it is so."""
    held = json.loads(run("helm", "get", "values", release.NAME, "-n", release.NAMESPACE, "-o", "json"))
    if held != release.values(settings):
        release.install(cluster, settings)


def belongings(forebay: Installed) -> dict[str, str]:
    """Uids of what an upgrade changes and never makes anew, by kind and name; what helm keeps for itself left out."""
    found = kube.listed(KINDS, forebay.namespace, f"app.kubernetes.io/instance={forebay.name}")
    return {f"{body['kind']}/{body['metadata']['name']}": body["metadata"]["uid"] for body in found}


def updated(forebay: Installed, memory: str) -> Body:
    """The pool once its workers may take so much ``memory`` (empty: all there is) and all of them know."""
    return kube.until(
        lambda: kube.get("wpool", "default", forebay.namespace),
        lambda pool: (
            pool["spec"].get("resources", {}).get("limits", {}).get("memory", "") == memory
            and pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
            and kube.condition(pool, "Reconciling") == "False"
            and pool["status"]["updatedWorkers"] == pool["status"]["readyWorkers"] == 2
        ),
        "all workers are of the new template",
        ROLLED,
    )


def calm(forebay: Installed) -> None:
    """Those that were told to end have ended."""
    chosen = f"app.kubernetes.io/instance={forebay.name}"
    kube.until(
        lambda: kube.listed("pods", forebay.namespace, chosen),
        lambda pods: not [pod for pod in pods if "deletionTimestamp" in pod["metadata"]],
        "nobody is about to end",
        ROLLED,
    )


@contextlib.asynccontextmanager
async def asked_all_the_time(forebay: Installed, name: str, real: Reference) -> AsyncIterator[list[str]]:
    """One short answer after the other, each by a connection of its own, and each right."""
    stop, answers = asyncio.Event(), list[str]()
    real.answer(PROMPT, TOKENS, chat=True)

    async def ask() -> None:
        while not stop.is_set():
            async with forebay.client(name) as client:
                answers.append(await chat(client, name, PROMPT, max_tokens=TOKENS))

    asking = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        stop.set()
        await asking
    assert answers
    for answer in answers:
        real.check(answer, PROMPT, TOKENS, chat=True)


async def changed(forebay: Installed, real: Reference, change: Callable[[], object], memory: str) -> list[str]:
    """Answers while ``change`` happens, to workers that may take so much ``memory``, and pods come and go: none is
    lost."""
    before = {part: forebay.identities(part) for part in ("operator", "gateway", "worker")}
    owned = belongings(forebay)
    async with answering(forebay, "upgraded", real, count=2), asked_all_the_time(forebay, "upgraded", real) as answers:
        await asyncio.to_thread(change)
        await asyncio.to_thread(updated, forebay, memory)
    await asyncio.to_thread(calm, forebay)
    after = {part: forebay.identities(part) for part in before}
    for part, pods in before.items():
        assert not set(pods.values()) & set(after[part].values()), f"a {part} was left as it was"
    assert after["worker"].keys() == before["worker"].keys(), "names are deterministic"
    assert belongings(forebay) == owned, "something was made anew"
    return answers


@pytest.fixture(scope="module")
def restored(bed: Cluster) -> Iterator[None]:
    """The release is what it was, whatever went wrong."""
    yield
    ensure(bed, USUAL)


async def test_an_upgrade_loses_no_request(bed: Cluster, restored: None, forebay: Installed, real: Reference) -> None:
    await asyncio.to_thread(forebay.settled, "worker", 2, ROLLED)
    await asyncio.to_thread(forebay.apply, "upgraded")
    await asyncio.to_thread(forebay.ready, "upgraded")
    answers = await changed(forebay, real, partial(release.install, bed, CHANGED), LIMIT)
    print(f"{len(answers)} answers during the upgrade")
    await asyncio.to_thread(forebay.settled, "gateway", 3)
    await asyncio.to_thread(forebay.settled, "operator", 2)
    for pod in await asyncio.to_thread(forebay.settled, "worker", 2):
        assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == LIMIT


async def test_a_worker_that_takes_too_much_memory(
    bed: Cluster, restored: None, forebay: Installed, real: Reference
) -> None:
    """By the limit that the upgrade brought the kernel ends it while it answers. With version 1 of control groups it
    ends that process alone, and the first one in the container makes another; with version 2 all of the container."""
    await asyncio.to_thread(ensure, bed, CHANGED)
    await asyncio.to_thread(updated, forebay, LIMIT)
    await asyncio.to_thread(forebay.apply, "starved")
    await asyncio.to_thread(forebay.ready, "starved")
    for pod in await asyncio.to_thread(forebay.settled, "worker", 2):
        async with answering(forebay, "starved", real, count=2) as answers:
            await answers[0].reaches(10)
            victim = await asyncio.to_thread(starve, pod)
        again = await asyncio.to_thread(forebay.settled, "worker", 2, ROLLED)
        (same,) = [found for found in again if found["metadata"]["name"] == pod["metadata"]["name"]]
        assert same["metadata"]["uid"] == pod["metadata"]["uid"], "the kubelet restarts the container, nobody the pod"
        (status,) = same["status"]["containerStatuses"]
        assert victim not in processes(same)
        if status["restartCount"]:
            assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
        async with answering(forebay, "starved", real):
            pass


async def test_a_rollback_loses_no_request(bed: Cluster, restored: None, forebay: Installed, real: Reference) -> None:
    await asyncio.to_thread(ensure, bed, CHANGED)
    await asyncio.to_thread(updated, forebay, LIMIT)
    await asyncio.to_thread(forebay.apply, "upgraded")
    await asyncio.to_thread(forebay.ready, "upgraded")
    back = ("helm", "rollback", forebay.name, "-n", forebay.namespace, "--wait", "--timeout=300s")
    await changed(forebay, real, partial(run, *back, limit=330), "")
    await asyncio.to_thread(forebay.settled, "gateway", 2)
    for pod in await asyncio.to_thread(forebay.settled, "worker", 2):
        assert "memory" not in pod["spec"]["containers"][0]["resources"]["limits"]
