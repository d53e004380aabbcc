"""The release goes, and comes back by another way: by helm 3, and by kubectl alone. A cluster has one at a
time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.conftest import USUAL, WORKERS_UP, left
from cluster.installed import Installed
from testbed import release
from testbed.cluster import Cluster
from testbed.shell import run

from checkpoints import real_smollm2
from cluster import kube
from local.system import chat

if TYPE_CHECKING:
    from local.reference import Reference

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]

PROMPT, TOKENS = "Name a colour.", 8
NAME = "kept"
ELSEWHERE = "by-hand"
KINDS = {"llmfunctions.forebay.dev", "workerpools.forebay.dev"}
MORE = replace(USUAL, gateways=3)


@pytest.fixture
def without(bed: Cluster, forebay: Installed) -> Iterator[Installed]:
    """A function whose operator has been uninstalled with all of its release, which is there again afterwards."""
    forebay.apply(NAME)
    forebay.ready(NAME)
    release.uninstall(bed)
    yield forebay
    release.prepare(bed, real_smollm2())
    release.install(bed, USUAL)
    forebay.settled("worker", 2, WORKERS_UP)
    forebay.settled("gateway", USUAL.gateways)


def nothing_is_left_but_kinds_and_functions(uid: str) -> None:
    kube.until(left, lambda found: not found, "nothing is left of the release but its kinds")
    kinds = {body["metadata"]["name"] for body in kube.listed("customresourcedefinitions")}
    assert kinds >= KINDS, "kinds stay when a release goes"
    assert kube.get("llmfn", NAME, "default")["metadata"]["uid"] == uid, "and functions with them"


async def answers(forebay: Installed, real: Reference) -> None:
    """The function that was there before is served by what is installed now."""
    forebay.ready(NAME, WORKERS_UP)
    async with forebay.client(NAME) as client:
        real.check(await chat(client, NAME, PROMPT, max_tokens=TOKENS), PROMPT, TOKENS, chat=True)


async def test_helm_3_installs_upgrades_and_uninstalls(bed: Cluster, without: Installed, real: Reference) -> None:
    forebay, uid = without, without.look(NAME)["metadata"]["uid"]
    nothing_is_left_but_kinds_and_functions(uid)
    release.prepare(bed, real_smollm2())
    release.install(bed, USUAL, "helm3")
    forebay.settled("worker", 2, WORKERS_UP)
    forebay.settled("gateway", USUAL.gateways)
    await answers(forebay, real)
    before = forebay.identities("worker")
    release.install(bed, MORE, "helm3")
    forebay.settled("gateway", MORE.gateways)
    (held,) = json.loads(run("helm3", "list", "-n", forebay.namespace, "-o", "json"))
    assert (held["revision"], held["status"]) == ("2", "deployed")
    assert forebay.identities("worker") == before, "their template is as it was"
    await answers(forebay, real)
    release.uninstall(bed, "helm3")
    nothing_is_left_but_kinds_and_functions(uid)


def rendered(file: Path, *more: object) -> str:
    """The chart as `helm template` has it, for a namespace of its own."""
    options = ("-n", ELSEWHERE, "--values", file, "--skip-tests", *more)
    return run("helm", "template", release.NAME, release.CHART, *options)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Values of a release in `ELSEWHERE`, which goes with all that is in it."""
    path = tmp_path / "values.json"
    path.write_text(json.dumps(release.values(USUAL)))
    namespace = json.loads(release.namespace())
    kube.apply({**namespace, "metadata": {**namespace["metadata"], "name": ELSEWHERE}})
    yield path
    kube.delete("namespace", ELSEWHERE)


async def test_kubectl_applies_a_template_and_deletes_it(
    bed: Cluster, without: Installed, file: Path, real: Reference
) -> None:
    uid = without.look(NAME)["metadata"]["uid"]
    nothing_is_left_but_kinds_and_functions(uid)
    release.prepare(bed, real_smollm2())
    forebay = Installed(without.uri, namespace=ELSEWHERE)
    kube.kubectl("apply", "--server-side", "-f", "-", stdin=rendered(file))
    forebay.settled("worker", 2, WORKERS_UP)
    forebay.settled("gateway", USUAL.gateways)
    await answers(forebay, real)
    # What helm keeps by itself kubectl is not told of.
    manifest = rendered(file, "--set", "crds.install=false")
    kube.kubectl("delete", "-f", "-", stdin=manifest, limit=120)
    nothing_is_left_but_kinds_and_functions(uid)
