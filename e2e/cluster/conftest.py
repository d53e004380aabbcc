"""One cluster and one installation for all tests; each test leaves them as it found them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster.installed import Installed, given
from testbed import release
from testbed.cluster import LOGS, Cluster

import tosses
from checkpoints import real_smollm2
from cluster import kube, left_over

if TYPE_CHECKING:  # it imports torch, which tests of the bed do without
    from local.reference import Reference

MODEL = "FOREBAY_E2E_MODEL"
LINK = "200MB/s"
"""Of each worker, emulated: the real model takes 2.7 s over one and is seen loading over two."""
WORKERS_UP = 240.0
"""Workers import torch on cores that they share."""
CREDENTIAL = {"namespace": "default", "name": "model-token"}
USUAL = release.Settings(env={"FOREBAY_LINK_RATE": LINK}, values={"credentials": {"secrets": [CREDENTIAL]}})
"""Two operators, which may read one secret of a function, two gateways, and one worker on each node."""
NOTHING_LEFT = 180.0
"""A gateway that ends says so for a while before it stops."""
OF_EVERY_NAMESPACE = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
"""Made by Kubernetes itself."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault: breaks something; `make e2e-faults`")
    config.pluginmanager.register(tosses)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs of pods go with them: those of a test that failed are kept before anything is taken down."""
    report = yield
    if report.failed and (state := os.environ.get("FOREBAY_TESTBED")):
        Cluster.at(Path(state)).keep_logs(LOGS, item.name.replace("/", "-"))
    return report


@pytest.fixture(scope="session")
def bed() -> Cluster:
    """The cluster of ours that the tests run in; skips where one was given."""
    state = os.environ.get("FOREBAY_TESTBED")
    if not state:
        pytest.skip("needs the test bed's own cluster (make e2e)")
    return Cluster.at(Path(state))


def left() -> list[str]:
    """What carries the release's label, and whatever else lies in its namespace; volumes of its claims are the test
    bed's."""
    label = f"app.kubernetes.io/instance={release.NAME}"
    labelled = _listed(_kinds() - {"customresourcedefinitions.apiextensions.k8s.io"}, "-A", "-l", label)
    inside = _listed(_kinds("--namespaced") - {"events", "events.events.k8s.io"}, "-n", release.NAMESPACE)
    return sorted({*labelled, *inside} - OF_EVERY_NAMESPACE)


def _kinds(*of: str) -> set[str]:
    # Endpoints are an older view of endpoint slices, and asking for them warns.
    return set(kube.kubectl("api-resources", "--verbs=list", "-o", "name", *of).split()) - {"endpoints"}


def _listed(kinds: set[str], *more: str) -> list[str]:
    found = kube.kubectl("get", ",".join(sorted(kinds)), *more, "-o", "name", "--ignore-not-found", limit=60)
    return found.split()


@pytest.fixture(scope="session")
def real() -> Reference:
    """What transformers answers with the real model."""
    from local.reference import Reference

    return Reference(real_smollm2())


def asked_for() -> str:
    """The uri that `MODEL` says the real model has in a given cluster; without one no test can be right."""
    if uri := os.environ.get(MODEL):
        return uri
    pytest.exit(
        f"{MODEL} must say where the workers of the given cluster find the model that answers are compared with. It is "
        f"{real_smollm2()}, made of a quantised file: no published checkpoint has these weights. Copy the folder to "
        "where they can read it, say a mounted volume (file:///...) or a bucket (s3://...), and name that",
        returncode=2,
    )


@pytest.fixture(scope="session")
def installation() -> Iterator[Installed]:
    """Forebay as `USUAL`."""
    state = os.environ.get("FOREBAY_TESTBED")
    if not state:
        with given(asked_for()) as forebay:
            yield forebay
        return
    cluster = Cluster.at(Path(state))
    uri = release.prepare(cluster, real_smollm2())
    release.install(cluster, USUAL)
    forebay = Installed(uri)
    forebay.settled("worker", 2, WORKERS_UP)
    yield forebay
    release.uninstall(cluster)
    kube.until(left, lambda found: not found, "nothing is left of the release but its kinds")


@pytest.fixture(autouse=True)
def nothing_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a fault, once the test's functions are gone: nothing is held, for anyone, anywhere."""
    if request.node.get_closest_marker("fault") is None or not os.environ.get("FOREBAY_TESTBED"):
        yield
        return
    installation: Installed = request.getfixturevalue("installation")
    yield
    what = "nothing is left over"
    kube.until(lambda: left_over.found(installation), lambda found: not found, what, NOTHING_LEFT)


@pytest.fixture
def forebay(installation: Installed) -> Iterator[Installed]:
    """The installation; a test's functions go with it."""
    yield installation
    for name in list(installation.applied):
        installation.remove(name)
