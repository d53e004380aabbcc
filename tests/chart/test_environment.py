"""What the chart sets is what the programs read."""

from __future__ import annotations

from pathlib import Path

import pytest

from chart.rendering import EVERYTHING, NAMESPACE, Body, Rendered, every_helm, render
from forebay_gateway.config import GatewayConfig
from forebay_operator.cluster.config import Certificates, ClusterConfig

pytestmark = pytest.mark.parametrize("helm", every_helm())

FIELDS = {"metadata.name": "forebay-operator-5d5f6c7b8-abcde", "metadata.namespace": NAMESPACE}


def environment(rendered: Rendered, component: str) -> dict[str, str]:
    """As the kubelet would set it."""
    return {
        name: value if isinstance(value, str) else FIELDS[value["fieldRef"]["fieldPath"]]
        for name, value in rendered.env(component).items()
    }


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_operator_reads_it(helm: Path, values: Body) -> None:
    rendered = render(helm, values)
    config = ClusterConfig.from_env(environment(rendered, "operator"))
    container = rendered.container("operator")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (config.namespace, config.release) == (NAMESPACE, "forebay")
    assert config.metrics_release == values.get("metrics", {}).get("release", f"{NAMESPACE}/forebay")
    assert config.address == f"0.0.0.0:{ports['grpc']}"
    assert (config.health_port, config.metrics_port) == (ports["health"], ports["metrics"])
    assert config.domain == values.get("gateway", {}).get("domain", "")
    assert config.pull_secrets == tuple(secret["name"] for secret in values.get("imagePullSecrets", ()))
    assert config.certificates is (Certificates.GIVEN if values else Certificates.MANAGED)
    assert config.identity is not None
    assert str(config.identity.folder) in {mount["mountPath"] for mount in container["volumeMounts"]}


BEARER: Body = {
    "prometheus": {
        "url": "http://prometheus",
        "timeoutSeconds": 1,
        "bearer": {"secretName": "a", "key": "b"},
        "ca": {"secretName": "c"},
    }
}


def test_without_a_prometheus_nothing_is_said_or_mounted(helm: Path) -> None:
    rendered = render(helm, {"prometheus": {"bearer": {"secretName": "unused"}}})
    assert ClusterConfig.from_env(environment(rendered, "operator")).prometheus is None
    assert "prometheus" not in {volume["name"] for volume in rendered.pod("operator")["volumes"]}


@pytest.mark.parametrize(
    ("values", "url", "timeout", "interval", "port", "files"),
    [
        (
            EVERYTHING,
            "https://prometheus.monitoring:9091/select",
            4.0,
            2.5,
            9091,
            {
                "username": ("prometheus-login", "username"),
                "password": ("prometheus-login", "password"),
                "ca.crt": ("authorities", "bundle.pem"),
            },
        ),
        (BEARER, "http://prometheus", 1.0, 5.0, 80, {"token": ("a", "b"), "ca.crt": ("c", "ca.crt")}),
        ({"prometheus": {"url": "https://prometheus"}}, "https://prometheus", 4.0, 5.0, 443, {}),
    ],
    ids=["basic", "bearer", "bare"],
)
def test_the_operator_finds_prometheus(
    helm: Path,
    values: Body,
    url: str,
    timeout: float,
    interval: float,
    port: int,
    files: dict[str, tuple[str, str]],
) -> None:
    """Each file that it is told to read is mounted, and the way there is open."""
    rendered = render(helm, values)
    config = ClusterConfig.from_env(environment(rendered, "operator")).prometheus
    assert config is not None
    assert (config.url, config.timeout, config.interval) == (url, timeout, interval)
    read = {config.token_file, config.username_file, config.password_file, config.ca_file} - {None}
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered.container("operator")["volumeMounts"]}
    volumes = [volume for volume in rendered.pod("operator")["volumes"] if volume["name"] == "prometheus"]
    mounted = {
        item["path"]: (kind["name"], item["key"])
        for volume in volumes
        for source in volume["projected"]["sources"]
        for kind in source.values()
        for item in kind["items"]
    }
    assert mounted == files
    assert read == {Path(mounts["prometheus"]) / file for file in files}
    egress = rendered.one("NetworkPolicy", "forebay-operator")["spec"]["egress"]
    assert {"ports": [{"port": port, "protocol": "TCP"}]} in egress


def test_prometheus_may_listen_on_another_port_than_its_service(helm: Path) -> None:
    values = {"prometheus": {"url": "http://prometheus"}, "networkPolicy": {"prometheusPorts": [9090, 9091]}}
    egress = render(helm, values).one("NetworkPolicy", "forebay-operator")["spec"]["egress"]
    assert {"ports": [{"port": 9090, "protocol": "TCP"}, {"port": 9091, "protocol": "TCP"}]} in egress


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_gateway_reads_it(helm: Path, values: Body) -> None:
    rendered = render(helm, values)
    environ = environment(rendered, "gateway")
    config = GatewayConfig.from_env(environ)
    container = rendered.container("gateway")
    assert (config.host, config.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert config.domain == values.get("gateway", {}).get("domain", "")
    assert config.lame_duck_seconds > 0  # those who route requests hear of a pod's end after it does
    assert config.lame_duck_seconds + config.drain_seconds < rendered.pod("gateway")["terminationGracePeriodSeconds"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert environ["FOREBAY_TLS"] in mounts
    assert any(config.state.is_relative_to(mount) for mount in mounts)


def test_both_listen_where_the_values_say(helm: Path) -> None:
    rendered = render(helm, {"listenAddress": "::"})
    operator = ClusterConfig.from_env(environment(rendered, "operator"))
    assert (operator.address, operator.host) == ("[::]:9443", "::")
    assert GatewayConfig.from_env(environment(rendered, "gateway")).host == "::"


@pytest.mark.parametrize("values", [{}, {"metrics": {"release": "berlin/models"}}], ids=["default", "named"])
def test_all_label_their_series_alike(helm: Path, values: Body) -> None:
    """And the operator asks Prometheus for those that are labelled so."""
    on = {"podMonitor": {"enabled": True}}
    given = {"prometheus": {"url": "http://prometheus"}, "metrics": {**values.get("metrics", {}), **on}}
    rendered = render(helm, given)
    operator = ClusterConfig.from_env(environment(rendered, "operator"))
    gateway = GatewayConfig.from_env(environment(rendered, "gateway"))
    (monitor,) = rendered.of("PodMonitor").values()
    (added,) = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert operator.prometheus is not None
    assert {operator.metrics_release, operator.prometheus.release, gateway.metrics_release, added["replacement"]} == {
        values.get("metrics", {}).get("release", f"{NAMESPACE}/forebay")
    }
    assert added["targetLabel"] == "forebay_release"


def test_workers_and_gateways_attach_where_the_operator_listens(helm: Path) -> None:
    rendered = render(helm, EVERYTHING)
    config = ClusterConfig.from_env(environment(rendered, "operator"))
    service = rendered.one("Service", "forebay-operator")
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    target = f"{service['metadata']['name']}.{NAMESPACE}.svc:{port}"
    assert config.worker_operator == GatewayConfig.from_env(environment(rendered, "gateway")).operator == target
