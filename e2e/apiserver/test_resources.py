"""The resources as a real API server keeps them: what it refuses, fills in, shows, selects and scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plane
import pytest
import yaml
from kubectl import Kubectl, program

from api.wrong import WRONG
from forebay_api import names
from forebay_api.function import Function
from forebay_api.pool import Pool

Body = dict[str, Any]

ROOT = Path(__file__).parents[2]
CRDS = (ROOT / "crds" / "llmfunctions.yaml", ROOT / "crds" / "workerpools.yaml")
GROUPS = {"functions": names.KIND, "pools": names.POOL_KIND}
CASES = {
    f"{group}-{index}-{case['field']}": (GROUPS[group], case)
    for group, cases in WRONG.items()
    for index, case in enumerate(cases)
}
PARALLEL = 4
READ = {names.KIND: Function, names.POOL_KIND: Pool}


def resource(kind: str, name: str, spec: object) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def function(name: str, **spec: object) -> Body:
    return resource(names.KIND, name, {"model": {"uri": "file:///models/chat"}, **spec})


def pool(name: str, **spec: object) -> Body:
    return resource(names.POOL_KIND, name, {"nodeSelector": {"gpu": "yes"}, **spec})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """kubectl of an API server that has our resources."""
    found = program()
    if found is None or not plane.available():
        pytest.skip(f"no etcd, kube-apiserver or kubectl in {plane.BINARIES}: make testbed")
    with plane.running(tmp_path_factory.mktemp("plane")) as api:
        kubectl = Kubectl(found, api.kubeconfig)
        for file in CRDS:
            applied = kubectl("apply", "--server-side", "--validate=strict", "-f", str(file))
            assert applied.returncode == 0, applied.stderr
        waited = kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        yield kubectl


@pytest.fixture(scope="module")
def refusals(server: Kubectl) -> Mapping[str, str]:
    """What the server said to each wrong resource."""
    with ThreadPoolExecutor(PARALLEL) as threads:
        bodies = [resource(kind, case.get("name", "wrong"), case["spec"]) for kind, case in CASES.values()]
        return dict(zip(CASES, threads.map(server.apply, bodies), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_resource_is_refused_and_the_field_named(case: str, refusals: Mapping[str, str]) -> None:
    said = refusals[case]
    assert "serverside-applied" not in said
    assert CASES[case][1]["field"] in said


def test_what_may_be_a_password_is_not_repeated(refusals: Mapping[str, str]) -> None:
    assert [said for said in refusals.values() if "password@" in said or "token=" in said] == []


def test_nothing_wrong_was_kept(server: Kubectl, refusals: Mapping[str, str]) -> None:
    kept = server.get(f"{names.PLURAL},{names.POOL_PLURAL}", "-A")["items"]
    given = {case.get("name", "wrong") for _, case in CASES.values()}
    assert [item["metadata"]["name"] for item in kept if item["metadata"]["name"] in given] == []


def rules(schema: Body) -> Iterator[Body]:
    yield from schema.get("x-kubernetes-validations", [])
    for inner in schema.get("properties", {}).values():
        yield from rules(inner)


def test_each_rule_between_fields_refused_something(refusals: Mapping[str, str]) -> None:
    said = "\n".join(refusals.values())
    for file in CRDS:
        crd = yaml.safe_load(file.read_text())
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        missing = [rule["message"] for rule in rules(schema) if "oldSelf" not in rule["rule"]]
        assert [message for message in missing if message not in said] == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"resourceName": "amd.com/gpu"}, "spec.resourceName"),
        ({"cache": {"claimTemplate": {"size": "2Gi"}}}, "spec.cache"),
        ({"cache": {"claimTemplate": {"size": "1Gi", "storageClassName": "fast"}}}, "spec.cache"),
        ({"cache": {"hostPath": {"path": "/var/models"}}}, "spec.cache"),
        ({"cache": None}, "spec.cache"),
    ],
)
def test_what_a_pool_was_made_with_stays(server: Kubectl, changes: Body, field: str) -> None:
    made = pool("fixed", cache={"claimTemplate": {"size": "1Gi"}}, gpusPerNode=1)
    assert "serverside-applied" in server.apply(made)
    changed = {**made["spec"], **changes}
    said = server.apply(pool("fixed", **{key: value for key, value in changed.items() if value is not None}))
    assert "serverside-applied" not in said
    assert f"{field}: Invalid value" in said
    assert "make another pool" in said
    assert "serverside-applied" in server.apply(pool("fixed", cache=made["spec"]["cache"], gpusPerNode=2))


def test_a_pool_without_a_cache_gets_none_later(server: Kubectl) -> None:
    assert "serverside-applied" in server.apply(pool("bare"))
    assert "spec.cache: Invalid value" in server.apply(pool("bare", cache={"emptyDir": {}}))


RIGHT = [
    function("least"),
    function(
        "most",
        model={
            "uri": "hf://owner/name",
            "name": "Chat-7B.v2",
            "revision": "refs/pr/1",
            "digest": "sha256:" + "0a" * 32,
            "dtype": "bfloat16",
            "maxModelLen": 4096,
            "credentials": {"secretRef": {"name": "hub"}},
        },
        scaling={"minReplicas": 1, "maxReplicas": 2, "target": 0.5, "scaleToZeroGracePeriodSeconds": 0},
        replicas=3,
        queue={"maxRequests": 1},
        loading={"strategy": "Full"},
        pool="big",
        priority=-7,
    ),
    function("suffix", model={"uri": "hf://owner/name:v1"}),
    pool("least"),
    pool(
        "most",
        gpusPerNode=0,
        resourceName="example.com/gpu",
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        runtimeClassName="nvidia",
        priorityClassName="high",
        serviceAccountName="models",
        podLabels={"team": "serving"},
        podSecurityContext={"runAsUser": None, "fsGroup": 1000, "seLinuxOptions": {"level": "s0:c1"}},
        podAnnotations={"example.com/note": "two\nlines", "example.com/empty": ""},
        image="localhost/worker:v1",
        imagePullPolicy="Never",
        resources={"limits": {"cpu": "4", "memory": "8Gi"}, "requests": {"cpu": "500m"}},
        args=["--verbose", ""],
        env=[{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}],
        volumeMounts=[{"name": "models", "mountPath": "/models"}, {"name": "models", "mountPath": "/more"}],
        shmSize="64Mi",
        terminationGracePeriodSeconds=30,
        cache={"claimTemplate": {"size": "1.5Ti", "accessModes": ["ReadWriteMany"]}},
        maxUnavailable=3,
    ),
]


@pytest.mark.parametrize("body", RIGHT, ids=lambda body: f"{body['kind']}-{body['metadata']['name']}")
def test_what_the_server_fills_in_is_what_our_types_fill_in(server: Kubectl, body: Body) -> None:
    assert "serverside-applied" in server.apply(body)
    kept = server.get(f"{body['kind'].lower()}s", body["metadata"]["name"])
    read = READ[body["kind"]].from_body(kept)
    assert read.to_body()["spec"] == kept["spec"]
    assert read == READ[body["kind"]].from_body(read.to_body())
    assert READ[body["kind"]].from_body(body).spec == read.spec


def test_every_right_resource_can_be_changed_again(server: Kubectl) -> None:
    """No rule is one that an object breaks by what the server itself filled in."""
    assert server.apply(*RIGHT).count("serverside-applied") == len(RIGHT)
    said = server("annotate", f"{names.PLURAL},{names.POOL_PLURAL}", "--all", "touched=yes", "--overwrite")
    assert said.returncode == 0, said.stderr


CONDITION = {"status": "True", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z"}
FUNCTION_STATUS = {
    "observedGeneration": 1,
    "state": "Pipelined",
    "url": "http://gateway/default/status",
    "address": {"url": "http://gateway/default/status"},
    "replicas": 2,
    "readyReplicas": 1,
    "desiredReplicas": 2,
    "scaling": {
        "desired": 2,
        "current": 1,
        "reason": "Mean",
        "message": "2 replicas: 41.5 requests in flight and held over the last 60 s (Prometheus); maxReplicas is 2",
        "limit": "maxReplicas",
        "inputs": [
            {"name": "requests", "value": 41.5, "sampledAt": "2026-01-02T03:04:03Z", "source": "Prometheus"},
            {"name": "requests", "value": 40, "source": "gateways"},
        ],
    },
    "coldStart": {
        "count": 12,
        "lastSeconds": 4.5,
        "lastTime": "2026-01-02T03:00:00Z",
        "breakdown": {"plan": 0.25, "load": 3.5, "firstToken": 0.75},
    },
    "lastFailure": {"reason": "ModelLoadFailed", "message": "w1: out of memory", "time": "2026-01-01T00:00:00Z"},
    "selector": "forebay.dev/pool=default",
    "workers": 3,
    "model": {
        "backbone": "0a1b",
        "architecture": "LlamaForCausalLM",
        "sizeBytes": 14 * 10**9,
        "layers": 32,
        "resolvedRevision": "3f1a",
        "digest": "sha256:" + "0a" * 32,
    },
    "placements": [
        {"worker": "a", "stage": 0, "epoch": "1.7", "node": "here", "firstUnit": 0, "lastUnit": 9, "state": "Serving"},
        {"worker": "a", "stage": 0, "epoch": "1.8", "node": "here", "firstUnit": 0, "lastUnit": 33, "state": "Loading"},
        {
            "worker": "b",
            "stage": 1,
            "epoch": "1.7",
            "node": "here",
            "firstUnit": 10,
            "lastUnit": 33,
            "state": "Draining",
        },
    ],
    "conditions": [
        {"type": "Ready", "reason": "Ready", **CONDITION},
        {"type": "Active", "reason": "Serving", **CONDITION},
    ],
}
POOL_STATUS = {
    "observedGeneration": 1,
    "selectedNodes": 2,
    "desiredWorkers": 8,
    "readyWorkers": 7,
    "updatedWorkers": 6,
    "nodes": [{"name": "a", "desired": 4, "ready": 4}, {"name": "b", "desired": 4, "ready": 3}],
    "conditions": [{"type": "Ready", "reason": "WorkersNotReady", **CONDITION}],
}


@pytest.mark.parametrize(
    ("body", "status", "cells"),
    [
        (
            function("status"),
            FUNCTION_STATUS,
            ["http://gateway/default/status", "Pipelined", "1", "2", "Ready", "3", "4.5", "3f1a", "default"],
        ),
        (pool("status"), POOL_STATUS, ["2", "8", "7", "6", "WorkersNotReady", "nvidia.com/gpu"]),
    ],
    ids=["function", "pool"],
)
def test_a_whole_status_is_kept_and_shown(server: Kubectl, body: Body, status: Body, cells: list[str]) -> None:
    assert "serverside-applied" in server.apply(body)
    plural = f"{body['kind'].lower()}s"
    told = {key: value for key, value in body.items() if key != "spec"} | {"status": status}
    assert "serverside-applied" in server.apply(told, manager="forebay-operator", subresource="status")
    kept = server.get(plural, "status")
    assert kept["status"] == status
    assert kept["metadata"]["generation"] == 1
    shown = server("get", plural, "status", "--no-headers", "-o", "wide").stdout.split()
    assert [cell for cell in cells if cell not in shown] == []
    described = server("describe", plural, "status").stdout
    assert str(status.get("scaling", {}).get("message", "")) in described
    wrong = {**told, "status": {**status, "phase": "Running"}}
    assert "status.phase" in server.apply(wrong, manager="forebay-operator", subresource="status")


def test_one_entry_per_stage_of_a_pipeline(server: Kubectl) -> None:
    assert "serverside-applied" in server.apply(function("twice"))
    stage = {"worker": "a", "stage": 0}
    for placements, kept in (([stage], True), ([stage, stage], False), ([stage, {**stage, "epoch": "1.1"}], True)):
        body = {**function("twice"), "status": {"placements": placements}}
        del body["spec"]
        said = server.apply(body, manager="forebay-operator", subresource="status")
        assert ("serverside-applied" in said) == kept


def test_functions_scale_by_hand(server: Kubectl) -> None:
    assert "serverside-applied" in server.apply(function("pinned"))
    path = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}/pinned/scale"
    assert server("scale", "llmfn/pinned", "--replicas=3").returncode == 0
    assert server.get("llmfn", "pinned")["spec"]["replicas"] == 3
    status = {**function("pinned"), "status": {"replicas": 2, "selector": "forebay.dev/pool=default"}}
    del status["spec"]
    assert "serverside-applied" in server.apply(status, manager="forebay-operator", subresource="status")
    scale = yaml.safe_load(server("get", "--raw", path).stdout)
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "forebay.dev/pool=default"}
    assert server("scale", "llmfn/pinned", "--replicas=0").returncode == 0
    unpin = '{"spec":{"replicas":null}}'
    assert server("patch", "llmfn/pinned", "--type=merge", "-p", unpin).returncode == 0
    assert "replicas" not in server.get("llmfn", "pinned")["spec"]
    assert "spec.replicas" in server.apply(function("pinned", replicas=None), manager="other")


def test_pools_do_not_scale_by_hand(server: Kubectl) -> None:
    assert "serverside-applied" in server.apply(pool("size"))
    assert server("scale", "wpool/size", "--replicas=3").returncode != 0
    path = f"/apis/{names.API_VERSION}/namespaces/default/{names.POOL_PLURAL}/size/scale"
    assert "NotFound" in server("get", "--raw", path).stderr


def test_the_server_finds_functions_by_pool_model_and_state(server: Kubectl) -> None:
    model = {"uri": "file:///m", "name": "Selected"}
    assert "serverside-applied" in server.apply(function("selected", pool="other", model=model), function("not"))
    status = {**function("selected"), "status": {"state": "Idle"}}
    del status["spec"]
    assert "serverside-applied" in server.apply(status, manager="forebay-operator", subresource="status")
    for selector in ("spec.pool=other", "spec.model.name=Selected", "status.state=Idle"):
        found = server.get("llmfn", f"--field-selector={selector}")["items"]
        assert [item["metadata"]["name"] for item in found] == ["selected"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("llmfn", "called like a function"),
        ("llmfn.spec.model.credentials.secretRef.key", "bearer token for hf:// and https://"),
        ("llmfn.spec.scaling.minReplicas", "0 gives the devices back."),
        ("llmfn.status.placements.firstUnit", "Unit 0 is the embedding"),
        ("wpool", "one per GPU"),
        ("wpool.spec.gpusPerNode", "as many as the node offers GPUs"),
        ("wpool.spec.cache.claimTemplate.size", "Size of each claim."),
        ("wpool.spec.env.name", "Name of the variable."),
        ("wpool.status.nodes.ready", "Workers whose pods are ready."),
    ],
)
def test_kubectl_explains(server: Kubectl, path: str, words: str) -> None:
    said = server("explain", path)
    assert said.returncode == 0, said.stderr
    assert words in " ".join(said.stdout.split())


def test_people_find_them_by_short_name_and_category(server: Kubectl) -> None:
    assert "serverside-applied" in server.apply(function("named"), pool("named"))
    shown = server("get", "forebay", "-o", "name").stdout.split()
    assert {f"llmfunction.{names.GROUP}/named", f"workerpool.{names.GROUP}/named"} <= set(shown)
    everything = server("get", "all", "-o", "name").stdout.split()
    assert f"llmfunction.{names.GROUP}/named" in everything
    assert f"workerpool.{names.GROUP}/named" not in everything
    for short in (names.SHORT_NAME, names.POOL_SHORT_NAME):
        assert server("get", short, "named").returncode == 0
