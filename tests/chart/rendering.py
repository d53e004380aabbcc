"""Renders the chart by whichever helm programs are here, into plain dicts."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "forebay"
NAMESPACE = "forebay-system"
LIMIT = 60

Body = dict[str, Any]


def _folders() -> Iterator[Path]:
    """Where helm may lie: a folder that was named, the test bed's, and PATH."""
    if named := os.environ.get("FOREBAY_TESTBED_BIN"):
        yield Path(named)
    if running := os.environ.get("FOREBAY_TESTBED"):
        yield Path(running) / "bin"
    cache = os.environ.get("FOREBAY_CACHE")
    kept = Path(cache) if cache else Path.home() / ".cache" / "forebay"
    yield from sorted(kept.glob("testbed/*/bin"))
    yield from map(Path, os.get_exec_path())


@functools.cache
def helms() -> dict[str, Path]:
    """By version, such as v4 and v3; the first of each version that is found."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for name in ("helm", "helm4", "helm3"):
            if program := shutil.which(name, path=str(folder)):
                said = subprocess.run(
                    [program, "version", "--short"], capture_output=True, text=True, timeout=LIMIT, check=False
                )
                found.setdefault(said.stdout[:2], Path(program))
    return {version: program for version, program in found.items() if version in ("v3", "v4")}


def every_helm() -> Iterable[Any]:
    """Parameters of a test: each helm, or one that is skipped."""
    if found := helms():
        return [pytest.param(path, id=version) for version, path in sorted(found.items())]
    return [pytest.param(Path(), id="none", marks=pytest.mark.skip(reason="no helm: `make testbed` gets it"))]


def run_helm(helm: Path, *args: str, values: Body | None = None) -> subprocess.CompletedProcess[str]:
    """With ``values`` as a file of values."""
    given = ("--values", "-") if values is not None else ()
    return subprocess.run(
        [helm, *args, *given],
        input=yaml.safe_dump(values) if values is not None else None,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def render_text(helm: Path, values: Body | None = None, *args: str, release: str = "forebay") -> str:
    """What `helm template` prints. The test fails when it refuses."""
    ran = run_helm(helm, "template", release, str(CHART), "--namespace", NAMESPACE, *args, values=values or {})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


class Rendered:
    """What helm would install."""

    def __init__(self, text: str) -> None:
        self.all: list[Body] = [body for body in yaml.load_all(text, _OneOfEach) if body]

    def of(self, kind: str) -> dict[str, Body]:
        return {body["metadata"]["name"]: body for body in self.all if body["kind"] == kind}

    def one(self, kind: str, name: str) -> Body:
        return self.of(kind)[name]

    def pod(self, component: str, fullname: str = "forebay") -> Body:
        """The pod's spec in a Deployment."""
        spec: Body = self.one("Deployment", f"{fullname}-{component}")["spec"]["template"]["spec"]
        return spec

    def container(self, component: str) -> Body:
        (container,) = self.pod(component)["containers"]
        return container

    def env(self, component: str) -> dict[str, Any]:
        return {item["name"]: item.get("value", item.get("valueFrom")) for item in self.container(component)["env"]}


class _OneOfEach(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C where PyYAML has it
    """Refuses a key that a mapping has twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key twice among {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def render(helm: Path, values: Body | None = None, *args: str, release: str = "forebay") -> Rendered:
    return _rendered(helm, json.dumps(values or {}, sort_keys=True), args, release)


@functools.cache  # most tests look at the same two renderings; none changes them
def _rendered(helm: Path, values: str, args: tuple[str, ...], release: str) -> Rendered:
    return Rendered(render_text(helm, json.loads(values), *args, release=release))


EVERYTHING: Body = {
    "commonLabels": {"team": "serving"},
    "image": {"digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}],
    "worker": {"image": {"tag": "9"}},
    "operator": {
        "podLabels": {"a": "b"},
        "podAnnotations": {"c": "d"},
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "nodeSelector": {"role": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
        ],
        "extraArgs": ["--verbose"],
        "extraEnv": [{"name": "PYTHONPATH", "value": "/env"}],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        "extraVolumes": [{"name": "env", "hostPath": {"path": "/env"}}],
        "extraVolumeMounts": [{"name": "env", "mountPath": "/env", "readOnly": True}],
        "serviceAccount": {"annotations": {"cloud": "role"}},
    },
    "gateway": {
        "domain": "llm.example.com",
        "service": {"type": "LoadBalancer", "annotations": {"lb": "internal"}, "externalTrafficPolicy": "Local"},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
            "namespaces": ["team-a", "team-b"],
            "hosts": [{"host": "api.example.com"}],
            "tls": [{"secretName": "wildcard", "hosts": ["*.team-a.llm.example.com"]}],
        },
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]},
        "extraVolumes": [{"name": "env", "hostPath": {"path": "/env"}}],
        "extraVolumeMounts": [{"name": "env", "mountPath": "/env"}],
    },
    "workerPool": {
        "enabled": True,
        "spec": {"nodeSelector": {"gpu": "yes"}, "cache": {"claimTemplate": {"size": "100Gi"}}, "shmSize": 1073741824},
    },
    "certificates": {"mode": "CertManager"},
    "credentials": {
        "secrets": [
            {"namespace": "team-a", "name": "hub"},
            {"namespace": "team-b", "name": "s3"},
            {"namespace": "team-a", "name": "s3"},
        ]
    },
    "networkPolicy": {
        "gatewayFrom": [{"namespaceSelector": {"matchLabels": {"edge": "yes"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "worker": {"egress": [{"ports": [{"port": 9000, "protocol": "TCP"}]}]},
    },
    "prometheus": {
        "url": "https://prometheus.monitoring:9091/select",
        "intervalSeconds": 2.5,
        "basic": {"secretName": "prometheus-login"},
        "ca": {"configMapName": "authorities", "key": "bundle.pem"},
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "LLM"}},
        "podMonitor": {"enabled": True, "relabelings": [{"action": "labeldrop", "regex": "x"}]},
    },
}
