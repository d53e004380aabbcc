"""What is optional, and what the chart repeats of other files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chart.rendering import CHART, EVERYTHING, ROOT, every_helm, render

WITH_HELM = pytest.mark.parametrize("helm", every_helm())


def test_what_the_chart_repeats_of_the_crds_is_up_to_date() -> None:
    """Copies, and the schema of `workerPool.spec`; `python deploy/helm/refresh.py` writes them again."""
    ran = subprocess.run(
        [sys.executable, ROOT / "deploy" / "helm" / "refresh.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (0, "")


@WITH_HELM
def test_crds_are_rendered_as_they_are_and_kept(helm: Path) -> None:
    ours = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    rendered = render(helm).of("CustomResourceDefinition")
    assert len(ours) == len(rendered) == 2
    for crd in ours:
        crd["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
        assert rendered[crd["metadata"]["name"]] == crd


@WITH_HELM
def test_the_default_pool_is_a_worker_pool(helm: Path) -> None:
    assert "forebay-pool" not in render(helm).of("ConfigMap")
    data = render(helm, EVERYTHING).one("ConfigMap", "forebay-pool")["data"]
    pool = yaml.safe_load(data["pool.yaml"])
    assert (pool["apiVersion"], pool["kind"]) == ("forebay.dev/v1alpha1", "WorkerPool")
    assert pool["metadata"]["name"] == "default"
    assert "namespace" not in pool["metadata"]
    assert pool["spec"] == EVERYTHING["workerPool"]["spec"]


@WITH_HELM
def test_an_ingress_has_a_wildcard_per_namespace(helm: Path) -> None:
    assert render(helm).of("Ingress") == {}
    spec = render(helm, EVERYTHING).one("Ingress", "forebay-gateway")["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == EVERYTHING["gateway"]["ingress"]["tls"]
    assert {rule["host"]: [path["path"] for path in rule["http"]["paths"]] for rule in spec["rules"]} == {
        "*.team-a.llm.example.com": ["/v1"],
        "*.team-b.llm.example.com": ["/v1"],
        "api.example.com": ["/v1"],
    }
    backends = [path["backend"] for rule in spec["rules"] for path in rule["http"]["paths"]]
    assert all(backend == {"service": {"name": "forebay-gateway", "port": {"name": "http"}}} for backend in backends)


@WITH_HELM
def test_a_route_covers_the_domain(helm: Path) -> None:
    assert render(helm).of("HTTPRoute") == {}
    spec = render(helm, EVERYTHING).one("HTTPRoute", "forebay-gateway")["spec"]
    assert spec["hostnames"] == ["*.llm.example.com"]
    assert spec["parentRefs"] == [{"name": "edge"}]
    (rule,) = spec["rules"]
    assert rule["backendRefs"] == [{"name": "forebay-gateway", "port": 80}]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}  # as long as a function may stream
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1"]


@WITH_HELM
def test_monitors_scrape_ports_that_exist(helm: Path) -> None:
    assert render(helm).of("ServiceMonitor") == render(helm).of("PodMonitor") == {}
    rendered = render(helm, EVERYTHING)
    for component, port in (("operator", "metrics"), ("gateway", "http")):
        monitor = rendered.one("ServiceMonitor", f"forebay-{component}")
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        (endpoint,) = monitor["spec"]["endpoints"]
        service = rendered.one("Service", f"forebay-{component}")
        assert endpoint["port"] == port
        assert port in {each["name"] for each in service["spec"]["ports"]}
        chosen = monitor["spec"]["selector"]["matchLabels"]
        assert chosen.items() <= service["metadata"]["labels"].items()
    workers = rendered.one("PodMonitor", "forebay-worker")["spec"]
    assert workers["selector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
    assert workers["podMetricsEndpoints"][0]["relabelings"][1:] == [{"action": "labeldrop", "regex": "x"}]


@WITH_HELM
def test_helms_test_asks_the_gateway_with_the_operators_python(helm: Path) -> None:
    pod = render(helm, EVERYTHING).one("Pod", "forebay-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["image"] == render(helm, EVERYTHING).container("operator")["image"]
    (program,) = container["args"]
    compile(program, "helm test", "exec")
    assert 'http://forebay-gateway.forebay-system.svc:80"' in program
    assert container["env"] == EVERYTHING["operator"]["extraEnv"]  # where its Python may come from


@WITH_HELM
def test_code_may_come_from_a_folder_as_the_readme_says(helm: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert example
    values = yaml.safe_load(example[1])
    rendered = render(helm, values)
    for component in ("operator", "gateway"):
        assert rendered.env(component)["PYTHONPATH"] == values["operator"]["extraEnv"][0]["value"]
        assert {"env", "src"} <= {volume["name"] for volume in rendered.pod(component)["volumes"]}
    assert rendered.env("operator")["FOREBAY_WORKER_IMAGE"] == "some-python:3.11"
