"""What the dashboard draws of Kubernetes and what rules ask of it, by a real operator, API server and Prometheus."""

from __future__ import annotations

import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plane
import pytest
import yaml
from operators import NAMESPACE, Operator, rights, until

from dashboards.board import DASHBOARDS, KUBERNETES, load, queries
from dashboards.prometheus import PATIENCE, WITH_PROMETHEUS, running
from local.system import free_port

ROOT = Path(__file__).parents[2]
FUNCTION = "/apis/forebay.dev/v1alpha1/namespaces/default/llmfunctions/served"
BODY = {
    "apiVersion": "forebay.dev/v1alpha1",
    "kind": "LLMFunction",
    "metadata": {"name": "served"},
    "spec": {"model": {"uri": "hf://no/such"}},
}
VARIABLES = {"__rate_interval": "10s", "release": ".*", "namespace": "default", "function": ".*"}

pytestmark = [
    WITH_PROMETHEUS,
    pytest.mark.skipif(
        not plane.available() or not (plane.BINARIES / "helm").exists(),
        reason="no kube-apiserver or helm: `make testbed`",
    ),
]


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[tuple[plane.Plane, list[Operator]]]:
    """Two of them and an API server in which the kinds are new."""
    with plane.running(tmp_path / "plane") as api:
        for name in ("llmfunctions", "workerpools"):
            kind = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
            api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind['metadata']['name']}", kind)
        api.request(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        )
        for body in rights():
            where = body["metadata"].get("namespace")
            within = f"/namespaces/{where}" if where else ""
            api.request("POST", f"/apis/{body['apiVersion']}{within}/{body['kind'].lower()}s", body)
        started = [Operator(api, name).start() for name in ("o0", "o1")]
        try:
            yield api, started
        finally:
            for operator in started:
                operator.end(signal.SIGKILL)


def applied(api: plane.Plane, body: dict[str, Any]) -> bool:
    """False while the API server does not know the kind yet."""
    try:
        api.apply(FUNCTION, body)
    except urllib.error.HTTPError as error:
        if error.code not in (404, 429):
            raise
        return False
    return True


def test_nothing_is_empty(operators: tuple[plane.Plane, list[Operator]], tmp_path: Path) -> None:
    api, both = operators
    until(lambda: any(operator.leads() for operator in both))
    jobs = {"operator": [f"127.0.0.1:{operator.metrics_port}" for operator in both]}
    with running(tmp_path / "prometheus", free_port(), jobs) as prometheus:
        until(prometheus.scraped, PATIENCE)
        until(lambda: applied(api, BODY))
        asked = [
            query.ask(VARIABLES) for path in DASHBOARDS for query in queries(load(path)) if query.row == KUBERNETES
        ]
        empty = set(asked)

        def none_is_empty() -> bool:
            nonlocal empty
            empty = prometheus.empty(sorted(empty))
            return not empty

        try:
            until(none_is_empty, PATIENCE)
        except AssertionError:
            raise AssertionError(f"panels without data: {empty}") from None
        rules = {rule["name"]: rule for rule in prometheus.rules()}
        assert [name for name, rule in rules.items() if rule["health"] != "ok"] == []
        for name in ("ForebayOperatorNotLeading", "ForebayTwoOperatorsLead"):
            assert rules[name]["state"] != "firing"
        assert prometheus.numbers("sum(last_over_time(forebay_leading[5s]))")[-1] == 1  # a scrape may be late
        assert max(prometheus.numbers("sum(forebay_leading)")) == 1
