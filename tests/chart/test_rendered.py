"""What the chart renders: names, labels, environment and lists that people add to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, EVERYTHING, NAMESPACE, ROOT, Body, every_helm, render, render_text, run_helm

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}

OPERATOR_ENV = {
    "POD_NAME": {"fieldRef": {"fieldPath": "metadata.name"}},
    "POD_NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
    "FOREBAY_RELEASE": "forebay",
    "FOREBAY_TLS": "/etc/forebay/tls",
    "FOREBAY_CERTIFICATES": "Managed",
    "FOREBAY_OPERATOR": "0.0.0.0:9443",
    "FOREBAY_VIEW": "127.0.0.1:9444",
    "FOREBAY_METRICS_PORT": "9090",
    "FOREBAY_METRICS_RELEASE": f"{NAMESPACE}/forebay",
    "FOREBAY_HEALTH_PORT": "8081",
    "FOREBAY_GATEWAY_URL": "http://forebay-gateway.forebay-system.svc.cluster.local",
    "FOREBAY_DOMAIN": "",
    "FOREBAY_WORKER_IMAGE": "forebay/worker:0.1.0",
    "FOREBAY_WORKER_PULL_POLICY": "IfNotPresent",
    "FOREBAY_PULL_SECRETS": "",
    "FOREBAY_WORKER_OPERATOR": "forebay-operator.forebay-system.svc:9443",
}
GATEWAY_ENV = {
    "FOREBAY_RELEASE": "forebay",
    "FOREBAY_TLS": "/etc/forebay/tls",
    "FOREBAY_HOST": "0.0.0.0",
    "FOREBAY_PORT": "8080",
    "FOREBAY_OPERATOR": "forebay-operator.forebay-system.svc:9443",
    "FOREBAY_METRICS_RELEASE": f"{NAMESPACE}/forebay",
    "FOREBAY_STATE": "/tmp/forebay",
    "FOREBAY_DOMAIN": "",
    "FOREBAY_LAME_DUCK_SECONDS": "5",
    "FOREBAY_DRAIN_SECONDS": "3600",
}

pytestmark = pytest.mark.parametrize("helm", every_helm())


def test_lint_finds_nothing(helm: Path) -> None:
    for values in ({}, EVERYTHING):
        ran = run_helm(helm, "lint", "--strict", str(CHART), values=values)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_rendering_is_repeatable(helm: Path, values: Body) -> None:
    """Nothing random, nothing looked up: what is in the cluster changes only when values do."""
    assert render_text(helm, values) == render_text(helm, values)


def test_nothing_is_looked_up_or_random(helm: Path) -> None:
    words = ("lookup ", "genCA", "genSelfSignedCert", "genSignedCert", "randAlpha", "uuidv4", "now ")
    texts = {path.name: path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()}
    assert [(name, word) for name, text in texts.items() for word in words if word in text] == []


def test_by_default_there_is_what_everybody_needs(helm: Path) -> None:
    found = sorted((body["kind"], body["metadata"]["name"]) for body in render(helm).all)
    assert found == [
        ("ClusterRole", f"{NAMESPACE}:forebay-admin"),
        ("ClusterRole", f"{NAMESPACE}:forebay-edit"),
        ("ClusterRole", f"{NAMESPACE}:forebay-operator"),
        ("ClusterRole", f"{NAMESPACE}:forebay-view"),
        ("ClusterRoleBinding", f"{NAMESPACE}:forebay-operator"),
        ("ConfigMap", "forebay-owner"),
        ("CustomResourceDefinition", "llmfunctions.forebay.dev"),
        ("CustomResourceDefinition", "workerpools.forebay.dev"),
        ("Deployment", "forebay-gateway"),
        ("Deployment", "forebay-operator"),
        ("NetworkPolicy", "forebay-gateway"),
        ("NetworkPolicy", "forebay-operator"),
        ("NetworkPolicy", "forebay-worker"),
        ("Pod", "forebay-test"),
        ("PodDisruptionBudget", "forebay-gateway"),
        ("PodDisruptionBudget", "forebay-operator"),
        ("Role", "forebay-operator"),
        ("RoleBinding", "forebay-operator"),
        ("Service", "forebay-gateway"),
        ("Service", "forebay-operator"),
        ("ServiceAccount", "forebay-gateway"),
        ("ServiceAccount", "forebay-operator"),
    ]


def test_switches_leave_things_out(helm: Path) -> None:
    values: Body = {
        "crds": {"install": False},
        "rbac": {"create": False, "aggregate": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "tests": {"enabled": False},
        "operator": {"serviceAccount": {"create": False, "name": "mine"}},
        "gateway": {"serviceAccount": {"create": False}},
    }
    rendered = render(helm, values)
    assert {body["kind"] for body in rendered.all} == {"ConfigMap", "Deployment", "Service"}
    assert rendered.pod("operator")["serviceAccountName"] == "mine"
    assert rendered.pod("gateway")["serviceAccountName"] == "default"


def test_with_everything_on_every_object_has_its_place_and_labels(helm: Path) -> None:
    for body in render(helm, EVERYTHING).all:
        metadata = body["metadata"]
        where = f"{body['kind']} {metadata['name']}"
        if body["kind"] in CLUSTER_WIDE:
            assert "namespace" not in metadata, where
        elif metadata["name"] != "forebay-credentials":
            assert metadata["namespace"] == NAMESPACE, where
        if body["kind"] != "CustomResourceDefinition":
            labels = metadata["labels"]
            assert labels["app.kubernetes.io/name"] == "forebay", where
            assert labels["app.kubernetes.io/instance"] == "forebay", where
            assert labels["app.kubernetes.io/part-of"] == "forebay", where
            assert labels["app.kubernetes.io/managed-by"] == "Helm", where
            assert labels["app.kubernetes.io/component"] in ("operator", "gateway", "worker", "test"), where
            assert labels["team"] == "serving", where


def test_the_pods_of_deployments_are_selected(helm: Path) -> None:
    rendered = render(helm, EVERYTHING)
    for component in ("operator", "gateway"):
        spec = rendered.one("Deployment", f"forebay-{component}")["spec"]
        chosen = spec["selector"]["matchLabels"]
        assert chosen.items() <= spec["template"]["metadata"]["labels"].items()
        assert rendered.one("Service", f"forebay-{component}")["spec"]["selector"] == chosen
        budget = rendered.one("PodDisruptionBudget", f"forebay-{component}")["spec"]
        assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, chosen)


def test_a_persons_labels_do_not_replace_those_that_select(helm: Path) -> None:
    wrong = {"app.kubernetes.io/component": "mine"}
    rendered = render(helm, {"commonLabels": wrong, "gateway": {"podLabels": wrong}})
    template = rendered.one("Deployment", "forebay-gateway")["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"


@pytest.mark.parametrize(
    ("release", "values", "fullname"),
    [
        ("forebay", {}, "forebay"),
        ("prod", {}, "prod-forebay"),
        ("prod", {"nameOverride": "llm"}, "prod-llm"),
        ("prod", {"fullnameOverride": "water"}, "water"),
        ("a" * 53, {}, "a" * 40),
        ("prod.v2", {}, "prod-v2-forebay"),
    ],
)
def test_full_names(helm: Path, release: str, values: Body, fullname: str) -> None:
    rendered = render(helm, values, release=release)
    assert f"{fullname}-gateway" in rendered.of("Deployment")
    env = {item["name"]: item.get("value") for item in rendered.pod("operator", fullname)["containers"][0]["env"]}
    assert env["FOREBAY_RELEASE"] == fullname
    assert env["FOREBAY_WORKER_OPERATOR"] == f"{fullname}-operator.{NAMESPACE}.svc:9443"


def test_the_environment_is_the_programs_own(helm: Path) -> None:
    rendered = render(helm)
    assert rendered.env("operator") == OPERATOR_ENV
    assert rendered.env("gateway") == GATEWAY_ENV
    assert rendered.container("operator")["command"] == ["python", "-m", "forebay_operator"]
    assert rendered.container("operator")["args"] == ["--cluster"]
    assert rendered.container("gateway")["command"] == ["python", "-m", "forebay_gateway"]
    assert "args" not in rendered.container("gateway")


@pytest.mark.parametrize(
    ("gateway", "url"),
    [
        ({"service": {"port": 8000}}, "http://forebay-gateway.forebay-system.svc.cluster.local:8000"),
        ({"url": "https://llm.example.com/"}, "https://llm.example.com"),
        ({"domain": "llm.example.com"}, "http://forebay-gateway.forebay-system.svc.cluster.local"),
        (
            {"domain": "d.com", "ingress": {"enabled": True, "namespaces": ["a"], "tls": [{"secretName": "s"}]}},
            "https://forebay-gateway.forebay-system.svc.cluster.local",
        ),
        (
            {"domain": "d.com", "service": {"port": 8000}},
            "http://forebay-gateway.forebay-system.svc.cluster.local:8000",
        ),
        (
            {
                "domain": "d.com",
                "service": {"port": 8000},
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
            },
            "http://forebay-gateway.forebay-system.svc.cluster.local",
        ),
        ({"domain": "d.com", "url": "https://d.com:8443"}, "https://d.com:8443"),
    ],
)
def test_where_functions_are_called(helm: Path, gateway: Body, url: str) -> None:
    rendered = render(helm, {"gateway": gateway})
    assert rendered.env("operator")["FOREBAY_GATEWAY_URL"] == url
    for component in ("operator", "gateway"):
        assert rendered.env(component)["FOREBAY_DOMAIN"] == gateway.get("domain", "")


def test_images_and_pull_secrets_reach_the_workers(helm: Path) -> None:
    rendered = render(helm, EVERYTHING)
    assert rendered.container("gateway")["image"] == f"forebay/operator@sha256:{'a' * 64}"
    assert rendered.env("operator")["FOREBAY_WORKER_IMAGE"] == "forebay/worker:9"
    assert rendered.env("operator")["FOREBAY_PULL_SECRETS"] == "registry,mirror"
    assert rendered.pod("gateway")["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


def test_what_a_person_adds_replaces_ours_of_the_same_name(helm: Path) -> None:
    """Server-side apply refuses duplicates, and order in `env` matters to $(references)."""
    added = {
        "extraEnv": [
            {"name": "FOREBAY_TLS", "value": "/other"},
            {"name": "A", "value": "1"},
            {"name": "A", "value": "2"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "extraVolumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}, {"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/tmp"}],
    }
    rendered = render(helm, {"operator": added, "gateway": added})
    for component, ours in (("operator", OPERATOR_ENV), ("gateway", GATEWAY_ENV)):
        names = [item["name"] for item in rendered.container(component)["env"]]
        assert names == [*ours, "A", "B"]
        assert rendered.env(component)["FOREBAY_TLS"] == "/other"
        assert rendered.env(component)["A"] == "2"
        volumes = {volume["name"]: volume for volume in rendered.pod(component)["volumes"]}
        assert len(volumes) == len(rendered.pod(component)["volumes"]) == 3
        assert volumes["tmp"]["emptyDir"] == {"medium": "Memory"}
        mounts = {mount["mountPath"]: mount["name"] for mount in rendered.container(component)["volumeMounts"]}
        assert mounts == {"/tmp": "more", "/etc/forebay/tls": "tls"}


def test_everything_that_a_person_adds_is_there(helm: Path) -> None:
    rendered = render(helm, EVERYTHING)
    given, pod, container = EVERYTHING["operator"], rendered.pod("operator"), rendered.container("operator")
    for key in ("priorityClassName", "runtimeClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[key] == given[key]
    assert pod["topologySpreadConstraints"] == given["topologySpreadConstraints"]
    assert given["extraVolumes"][0] in pod["volumes"]
    assert given["extraVolumeMounts"][0] in container["volumeMounts"]
    assert container["args"] == ["--cluster", "--verbose"]
    assert container["envFrom"] == given["extraEnvFrom"]
    metadata = rendered.one("Deployment", "forebay-operator")["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"c": "d"}
    assert metadata["labels"]["a"] == "b"
    assert rendered.one("ServiceAccount", "forebay-operator")["metadata"]["annotations"] == {"cloud": "role"}


def test_replicas_spread_over_nodes(helm: Path) -> None:
    for component in ("operator", "gateway"):
        (constraint,) = render(helm).pod(component)["topologySpreadConstraints"]
        assert constraint["topologyKey"] == "kubernetes.io/hostname"
        assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == component


def test_a_gateway_may_finish_its_longest_stream(helm: Path) -> None:
    longest = yaml.safe_load((ROOT / "crds" / "llmfunctions.yaml").read_text())
    spec = longest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    rendered = render(helm)
    drain = int(rendered.env("gateway")["FOREBAY_DRAIN_SECONDS"])
    assert spec["timeoutSeconds"]["maximum"] <= drain < rendered.pod("gateway")["terminationGracePeriodSeconds"]
    rolling = rendered.one("Deployment", "forebay-gateway")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_an_autoscaler_may_own_the_number_of_gateways(helm: Path) -> None:
    assert "replicas" not in render(helm, {"gateway": {"replicas": None}}).one("Deployment", "forebay-gateway")["spec"]


def test_probes_ask_ports_that_the_container_names(helm: Path) -> None:
    paths: dict[str, Any] = {"operator": ("/healthz", "/readyz"), "gateway": ("/health", "/ready")}
    for component, (alive, ready) in paths.items():
        container = render(helm).container(component)
        ports = {port["name"] for port in container["ports"]}
        assert container["livenessProbe"]["httpGet"]["path"] == alive
        assert container["startupProbe"]["httpGet"]["path"] == alive
        assert container["readinessProbe"]["httpGet"]["path"] == ready
        assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} <= ports


def test_the_operators_service_is_headless(helm: Path) -> None:
    spec = render(helm).one("Service", "forebay-operator")["spec"]
    assert spec["clusterIP"] == "None"
    assert {port["name"]: port["port"] for port in spec["ports"]} == {"grpc": 9443, "metrics": 9090}


def test_notes_say_the_next_command(helm: Path) -> None:
    for values, command in (({}, "--set workerPool.enabled=true"), (EVERYTHING, "kubectl get wpool -n")):
        ran = run_helm(
            helm, "install", "forebay", str(CHART), "--namespace", NAMESPACE, "--dry-run=client", values=values
        )
        if "cluster unreachable" in ran.stderr:
            pytest.skip("helm 3 asks the API server its version even when it is only to say what it would do")
        assert ran.returncode == 0, ran.stderr
        assert command in ran.stdout
        assert "kubectl wait -n default --for=condition=Ready llmfn/smol --timeout=15m" in ran.stdout
