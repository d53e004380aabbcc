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
    assert config.address == f"0.0.0.0:{ports['grpc']}"
    assert (config.health_port, config.metrics_port) == (ports["health"], ports["metrics"])
    assert config.domain == values.get("gateway", {}).get("domain", "")
    assert config.pull_secrets == tuple(secret["name"] for secret in values.get("imagePullSecrets", ()))
    assert config.certificates is (Certificates.GIVEN if values else Certificates.MANAGED)
    assert config.identity is not None
    assert str(config.identity.folder) in {mount["mountPath"] for mount in container["volumeMounts"]}


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


def test_workers_and_gateways_attach_where_the_operator_listens(helm: Path) -> None:
    rendered = render(helm, EVERYTHING)
    config = ClusterConfig.from_env(environment(rendered, "operator"))
    service = rendered.one("Service", "forebay-operator")
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    target = f"{service['metadata']['name']}.{NAMESPACE}.svc:{port}"
    assert config.worker_operator == GatewayConfig.from_env(environment(rendered, "gateway")).operator == target
