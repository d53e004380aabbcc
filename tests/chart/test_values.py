"""The schema of values refuses what is wrong, with a message that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import CHART, Body, every_helm, run_helm

WRONG: list[tuple[Body, str]] = [
    ({"operatr": {}}, "operatr"),
    ({"operator": {"replicas": "two"}}, "replicas"),
    ({"operator": {"replicas": 0}}, "replicas"),
    ({"operator": {"extraEnvs": []}}, "extraEnvs"),
    ({"operator": {"extraEnv": {"A": "1"}}}, "extraEnv"),
    ({"operator": {"extraEnv": [{"name": "A", "value": 1}]}}, "value"),
    ({"operator": {"extraEnv": [{"value": "nameless"}]}}, "name"),
    ({"operator": {"extraVolumeMounts": [{"name": "a", "mountPath": "relative"}]}}, "mountPath"),
    ({"operator": {"resources": {"limit": {}}}}, "limit"),
    ({"operator": {"serviceAccount": {"name": "Not_A_Name"}}}, "serviceAccount"),
    ({"gateway": {"domain": "https://llm.example.com"}}, "domain"),
    ({"gateway": {"url": "llm.example.com"}}, "url"),
    ({"gateway": {"drainSeconds": -1}}, "drainSeconds"),
    ({"gateway": {"lameDuckSeconds": "5s"}}, "lameDuckSeconds"),
    ({"gateway": {"service": {"type": "ExternalName"}}}, "type"),
    ({"gateway": {"service": {"port": 70000}}}, "port"),
    ({"gateway": {"ingress": {"hosts": ["llm.example.com"]}}}, "hosts"),
    ({"gateway": {"ingress": {"hosts": [{"host": "a.b", "paths": ["v1"]}]}}}, "paths"),
    ({"image": {"digest": "sha256:short"}}, "digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
    ({"worker": {"image": {"repository": ""}}}, "repository"),
    ({"workerPool": {"enabled": True}}, "nodeSelector"),
    ({"workerPool": {"enabled": True, "spec": {"nodeSelector": {}}}}, "nodeSelector"),
    ({"workerPool": {"spec": {"nodeSelector": {"gpu": True}}}}, "nodeSelector"),
    ({"workerPool": {"spec": {"gpuPerNode": 4}}}, "gpuPerNode"),
    ({"workerPool": {"spec": {"gpusPerNode": 17}}}, "gpusPerNode"),
    ({"workerPool": {"name": "Default"}}, "name"),
    ({"workerPool": {"name": "with.dot"}}, "name"),
    ({"workerPool": {"name": "p" * 41}}, "name"),
    ({"listenAddress": "[::]"}, "listenAddress"),
    ({"networkPolicy": {"dnsPorts": []}}, "dnsPorts"),
    ({"gateway": {"httpRoute": {"timeouts": {"idle": "1s"}}}}, "timeouts"),
    ({"certificates": {"mode": "Helm"}}, "mode"),
    ({"certificates": {"certManager": {"duration": "90 days"}}}, "duration"),
    ({"credentials": {"secrets": [{"name": "hub"}]}}, "namespace"),
    ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
    ({"metrics": {"podMonitor": {"interval": "often"}}}, "interval"),
    ({"prometheus": {"url": "prometheus:9090"}}, "url"),
    ({"prometheus": {"url": "ftp://prometheus"}}, "url"),
    ({"prometheus": {"url": "https://user:password@prometheus"}}, "url"),
    ({"prometheus": {"timeoutSeconds": 0}}, "timeoutSeconds"),
    ({"prometheus": {"intervalSeconds": "5s"}}, "intervalSeconds"),
    ({"prometheus": {"bearer": {"secret": "a"}}}, "bearer"),
    ({"prometheus": {"bearer": {"secretName": "a"}, "basic": {"secretName": "b"}}}, "prometheus"),
    ({"prometheus": {"ca": {"secretName": "a", "configMapName": "b"}}}, "prometheus"),
    ({"networkPolicy": {"prometheusPorts": ["web"]}}, "prometheusPorts"),
    ({"crds": {"install": "yes"}}, "install"),
]

# What a schema cannot say well is said by a template.
CONTRADICTIONS: list[tuple[Body, str]] = [
    ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress"),
    ({"gateway": {"ingress": {"enabled": True, "namespaces": ["a"]}}}, "gateway.domain"),
    ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.parentRefs"),
]

# Of charts that contain this one.
UNUSED = {"global", "enabled"}
# These are empty by default: a person's own, or as in a pod.
OPEN = {
    ".workerPool.spec",
    ".certificates.certManager.issuerRef",
    ".operator.resources",
    ".gateway.resources",
}

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: Body = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("helm", every_helm())
@pytest.mark.parametrize(("values", "named"), WRONG)
def test_wrong_values_are_refused_by_name(helm: Path, values: Body, named: str) -> None:
    ran = run_helm(helm, "template", "forebay", str(CHART), values=values)
    assert ran.returncode != 0
    assert "schema" in ran.stderr
    assert named in ran.stderr


@pytest.mark.parametrize("helm", every_helm())
@pytest.mark.parametrize(("values", "named"), CONTRADICTIONS)
def test_contradictions_are_refused_by_name(helm: Path, values: Body, named: str) -> None:
    ran = run_helm(helm, "template", "forebay", str(CHART), values=values)
    assert ran.returncode != 0
    assert named in ran.stderr


@pytest.mark.parametrize("helm", every_helm())
def test_charts_that_contain_this_one_may_switch_it_and_share_values(helm: Path) -> None:
    ran = run_helm(
        helm, "template", "forebay", str(CHART), values={"enabled": True, "global": {"registry": "r.example"}}
    )
    assert ran.returncode == 0, ran.stderr


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def test_every_value_has_a_schema_and_every_schema_a_default() -> None:
    """So that values.yaml shows all there is."""

    def walk(schema: dict[str, Any], values: Any, path: str) -> None:
        schema = resolved(schema)
        if schema.get("additionalProperties") is False and path not in OPEN:
            assert isinstance(values, dict), path
            assert set(schema["properties"]) - (set() if path else UNUSED) == set(values), path
            for key, inner in values.items():
                walk(schema["properties"][key], inner, f"{path}.{key}")

    walk(SCHEMA, VALUES, "")


def test_our_own_objects_take_nothing_unknown() -> None:
    """An object that names its properties is ours; one that does not is Kubernetes' or a person's."""

    def walk(schema: dict[str, Any], path: str) -> None:
        if "properties" in schema and schema.get("type") == "object" and "required" not in schema:
            assert schema.get("additionalProperties") is False, path
        for key, inner in schema.get("properties", {}).items():
            walk(inner, f"{path}.{key}")

    walk(SCHEMA, "")
    for name, definition in SCHEMA["definitions"].items():
        walk(definition, name)
