"""What a worker's pod and a node's claim look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_pools.store import pool_body
from forebay_api.pool import Pool
from forebay_operator.cluster import pool_view
from forebay_operator.cluster.claims import make_claim
from forebay_operator.cluster.pods import DRAIN_MARGIN, make_pod, node_of, template, tolerations
from forebay_operator.cluster.template import PodSettings
from forebay_operator.decide.pool_nodes import NodeState, state
from forebay_worker.config import OneLineParser, add_serve_flags

SETTINGS = PodSettings("forebay-system", "fb", "fb-operator.forebay-system.svc:9443", "worker:1", pull_secrets=("reg",))
CRD = Path(__file__).parents[2] / "crds" / "workerpools.yaml"
CLAIM = {"cache": {"claimTemplate": {"size": "100Gi"}}}


def pool(**spec: object) -> Pool:
    body = pool_body(**spec)
    body["metadata"]["uid"] = "pool-uid"
    return Pool.from_body(body)


def pod(**spec: object) -> dict[str, Any]:
    return make_pod(pool(**spec), "node-1", 3, SETTINGS)


def env(body: dict[str, Any]) -> dict[str, Any]:
    listed = body["spec"]["containers"][0]["env"]
    found = {one["name"]: one for one in listed}
    assert len(found) == len(listed)
    return found


def test_a_pod_says_whose_it_is_and_where_it_runs() -> None:
    body = pod()
    metadata = body["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("gpu-node-1-3", "forebay-system")
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "forebay",
        "app.kubernetes.io/instance": "fb",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "forebay",
        "app.kubernetes.io/managed-by": "forebay-operator",
        "forebay.dev/pool": "gpu",
        "forebay.dev/node": "node-1",
    }
    assert metadata["ownerReferences"][0]["controller"]
    assert metadata["ownerReferences"][0]["uid"] == "pool-uid"
    assert "nodeName" not in body["spec"]
    assert node_of(body) == "node-1"


def test_a_pod_is_restricted() -> None:
    spec = pod(**CLAIM)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {spec["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {65532}
    container = spec["containers"][0]["securityContext"]
    assert container == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert [next(kind for kind in volume if kind != "name") for volume in spec["volumes"]] == [
        "emptyDir", "emptyDir", "secret", "persistentVolumeClaim",
    ]  # fmt: skip


def test_one_device_beside_what_the_pool_asks() -> None:
    resources = pod(resources={"limits": {"memory": "8Gi"}, "requests": {"cpu": "500m"}})["spec"]["containers"][0][
        "resources"
    ]
    assert resources == {
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "500m", "nvidia.com/gpu": "1"},  # the API server asks for as much memory as the limit
    }


@pytest.mark.parametrize(
    ("said", "limits", "requests"),
    [
        ({}, {}, {"cpu": "250m", "memory": "4Gi"}),
        ({"requests": {"memory": "9Gi"}}, {}, {"cpu": "250m", "memory": "9Gi"}),
        ({"limits": {"cpu": "100m"}}, {"cpu": "100m"}, {"memory": "4Gi"}),  # the API server asks for as much
        ({"requests": {"cpu": 0, "memory": 0}}, {}, {"cpu": "0", "memory": "0"}),
    ],
)
def test_a_worker_asks_for_a_share_of_its_node_unless_told(said: Any, limits: Any, requests: Any) -> None:
    resources = pod(resources=said)["spec"]["containers"][0]["resources"]
    device = {"nvidia.com/gpu": "1"}
    assert resources == {"limits": {**limits, **device}, "requests": {**requests, **device}}


def test_what_a_worker_is_told() -> None:
    found = env(pod(**CLAIM, terminationGracePeriodSeconds=100))
    assert found["FOREBAY_OPERATOR"]["value"] == "fb-operator.forebay-system.svc:9443"
    assert found["FOREBAY_RELEASE"]["value"] == "fb"
    assert found["FOREBAY_DRAIN_SECONDS"]["value"] == "95"
    assert found["FOREBAY_SOCKETS"]["value"] == "/cache/sockets"
    assert found["FOREBAY_CACHE"]["value"] == "/cache"
    fields = {name: one["valueFrom"]["fieldRef"]["fieldPath"] for name, one in found.items() if "valueFrom" in one}
    assert fields == {
        "FOREBAY_NODE": "spec.nodeName",
        "FOREBAY_NAME": "metadata.name",
        "FOREBAY_POD_UID": "metadata.uid",
        "FOREBAY_LISTEN": "status.podIP",
    }
    assert env(pod(terminationGracePeriodSeconds=1))["FOREBAY_DRAIN_SECONDS"]["value"] == "1"


@pytest.mark.parametrize(
    ("cache", "volume", "shared"),
    [
        ({"claimTemplate": {"size": "1Gi"}}, {"persistentVolumeClaim": {"claimName": "gpu-node-1"}}, True),
        ({"hostPath": {"path": "/models"}}, {"hostPath": {"path": "/models", "type": "Directory"}}, True),
        ({"emptyDir": {"sizeLimit": "5Gi"}}, {"emptyDir": {"sizeLimit": "5Gi"}}, False),
        ({"emptyDir": {}}, {"emptyDir": {}}, False),
        (None, {"emptyDir": {}}, False),
    ],
)
def test_the_cache_is_what_the_pool_says(cache: object, volume: object, shared: bool) -> None:
    body = pod(cache=cache)
    assert body["spec"]["volumes"][3] == {"name": "cache", **volume}  # type: ignore[dict-item]
    assert ("FOREBAY_SOCKETS" in env(body)) is shared


@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_a_worker_takes_every_grace_period_that_the_schema_takes(end: str) -> None:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    grace = fields["terminationGracePeriodSeconds"][end]
    told = {
        name: str(one["value"]) for name, one in env(pod(terminationGracePeriodSeconds=grace)).items() if "value" in one
    }
    parser = OneLineParser()
    add_serve_flags(parser, told)
    assert parser.parse_args([]).drain_seconds == max(1, grace - DRAIN_MARGIN)


@pytest.mark.parametrize(
    ("resource", "device"),
    [("nvidia.com/gpu", "cuda"), ("nvidia.com/mig-1g.10gb", "cuda"), ("amd.com/gpu", None), ("a.io/nvidia.com", None)],
)
def test_who_was_given_a_card_does_not_make_do_with_the_processor(resource: str, device: str | None) -> None:
    told = env(pod(resourceName=resource)).get("FOREBAY_DEVICE")
    assert (told["value"] if told else None) == device
    own = env(pod(resourceName=resource, env=[{"name": "FOREBAY_DEVICE", "value": "cpu"}]))
    assert own["FOREBAY_DEVICE"]["value"] == "cpu"


@pytest.mark.parametrize(
    ("cache", "budget"),
    [
        ({"claimTemplate": {"size": "100Gi"}}, 90 * 2**30),
        ({"claimTemplate": {"size": "1.5T"}}, 1_350_000_000_000),
        ({"emptyDir": {"sizeLimit": "20G"}}, 18_000_000_000),
        ({"emptyDir": {"sizeLimit": 1000}}, 900),
        ({"emptyDir": {}}, None),
        ({"hostPath": {"path": "/models"}}, None),
        (None, None),
    ],
)
def test_models_leave_room_in_their_volume(cache: object, budget: int | None) -> None:
    """A pod that fills its emptyDir is evicted, and models with it."""
    told = env(pod(cache=cache)).get("FOREBAY_CACHE_BYTES")
    assert (int(told["value"]) if told else None) == budget
    own = [{"name": "FOREBAY_CACHE_BYTES", "value": "5GB"}]
    assert env(pod(cache=cache, env=own))["FOREBAY_CACHE_BYTES"]["value"] == "5GB"


def test_what_a_person_says_replaces_ours_and_is_never_there_twice() -> None:
    body = pod(
        env=[{"name": "HOME", "value": "/cache"}, {"name": "EXTRA", "value": "1"}],
        volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "site", "hostPath": {"path": "/opt"}}],
        volumeMounts=[{"name": "site", "mountPath": "/opt", "readOnly": True}],
        args=["--cpus", "0-3"],
    )
    found = env(body)
    assert (found["HOME"]["value"], found["EXTRA"]["value"]) == ("/cache", "1")
    volumes = {volume["name"]: volume for volume in body["spec"]["volumes"]}
    assert volumes["tmp"]["emptyDir"] == {"sizeLimit": "1Gi"}
    assert len(volumes) == len(body["spec"]["volumes"]) == 5
    container = body["spec"]["containers"][0]
    assert container["volumeMounts"][-1] == {"name": "site", "mountPath": "/opt", "readOnly": True}
    assert container["command"] + container["args"] == [
        "python", "-m", "forebay_worker", "serve", "--count", "1", "--cpus", "0-3",
    ]  # fmt: skip


def test_a_pool_s_labels_and_annotations_are_beside_ours_and_replace_none() -> None:
    plain = pod()["metadata"]
    given = {"team": "serving", "forebay.dev/pool": "other", "app.kubernetes.io/component": "mine"}
    marks = {"linkerd.io/inject": "disabled", "forebay.dev/template": "mine"}
    metadata = pod(podLabels=given, podAnnotations=marks)["metadata"]
    assert metadata["labels"] == {**plain["labels"], "team": "serving"}
    changed = template(pool(podLabels=given, podAnnotations=marks), SETTINGS)
    assert metadata["annotations"] == {"linkerd.io/inject": "disabled", "forebay.dev/template": changed}


def test_a_pool_s_security_context_is_laid_over_ours() -> None:
    plain = pod()["spec"]["securityContext"]
    given = {"fsGroup": 1000, "runAsUser": None, "seLinuxOptions": {"level": "s0:c1"}}
    changed = pod(podSecurityContext=given)["spec"]["securityContext"]
    assert changed == {
        **{name: value for name, value in plain.items() if name != "runAsUser"},
        "fsGroup": 1000,
        "seLinuxOptions": {"level": "s0:c1"},
    }


def test_a_pool_s_service_account_brings_no_token() -> None:
    """Who may ask the API server is not who computes; web identity has a projected token."""
    assert "serviceAccountName" not in pod()["spec"]
    spec = pod(serviceAccountName="models")["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("models", False)


def test_what_the_pool_may_choose_is_there_only_when_chosen() -> None:
    plain = pod()["spec"]
    assert not {"runtimeClassName", "priorityClassName"} & plain.keys()
    assert plain["imagePullSecrets"] == [{"name": "reg"}]
    chosen = pod(runtimeClassName="nvidia", priorityClassName="low", image="own:2", imagePullPolicy="Never")["spec"]
    assert (chosen["runtimeClassName"], chosen["priorityClassName"]) == ("nvidia", "low")
    assert (chosen["containers"][0]["image"], chosen["containers"][0]["imagePullPolicy"]) == ("own:2", "Never")
    assert "imagePullSecrets" not in make_pod(pool(), "n", 0, PodSettings("ns", "fb", "o:1", "i"))["spec"]


def test_pods_of_a_node_that_does_not_answer_are_kept() -> None:
    away = {"operator": "Exists", "effect": "NoExecute"}
    card = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert tolerations(pool()) == [
        card,
        {"key": "node.kubernetes.io/not-ready", **away},
        {"key": "node.kubernetes.io/unreachable", **away},
    ]
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9}
    assert tolerations(pool(tolerations=[own])) == [own, card, {"key": "node.kubernetes.io/not-ready", **away}]


@pytest.mark.parametrize(
    ("resource", "own", "key", "effect", "found"),
    [
        ("nvidia.com/gpu", [], "nvidia.com/gpu", "NoSchedule", NodeState.OPEN),
        ("amd.com/gpu", [], "amd.com/gpu", "NoSchedule", NodeState.OPEN),
        ("amd.com/gpu", [], "nvidia.com/gpu", "NoSchedule", NodeState.TAINTED),
        ("nvidia.com/gpu", [], "nvidia.com/gpu", "NoExecute", NodeState.TAINTED),
        (
            "nvidia.com/gpu",
            [{"key": "nvidia.com/gpu", "value": "a100"}],
            "nvidia.com/gpu",
            "NoSchedule",
            NodeState.TAINTED,
        ),
        (
            "nvidia.com/gpu",
            [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}],
            "nvidia.com/gpu",
            "NoSchedule",
            NodeState.OPEN,
        ),
    ],
)
def test_the_taint_of_nodes_with_devices_is_tolerated_and_counted_so(
    resource: str, own: list[Any], key: str, effect: str, found: NodeState
) -> None:
    node = pool_view.node_seen(
        {
            "metadata": {"name": "n", "labels": {"gpu": "yes"}},
            "spec": {"taints": [{"key": key, "value": "present", "effect": effect}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    seen = pool_view.pool_seen(pool(nodeSelector={"gpu": "yes"}, resourceName=resource, tolerations=own), SETTINGS)
    assert state(seen, node) is found


def test_the_template_is_of_what_pods_are_and_of_nothing_else() -> None:
    same = template(pool(), SETTINGS)
    assert same == template(pool(gpusPerNode=7, maxUnavailable=3, nodeSelector={"other": "x"}), SETTINGS)
    assert same == make_pod(pool(), "a", 0, SETTINGS)["metadata"]["annotations"]["forebay.dev/template"]
    assert same == make_pod(pool(), "b", 1, SETTINGS)["metadata"]["annotations"]["forebay.dev/template"]
    assert same != template(pool(image="worker:2"), SETTINGS)
    assert same != template(pool(serviceAccountName="models"), SETTINGS)
    assert same != template(pool(podLabels={"a": "b"}), SETTINGS)
    assert same != template(pool(podAnnotations={"a": "b"}), SETTINGS)
    assert same != template(pool(env=[{"name": "A", "value": "1"}]), SETTINGS)
    assert template(pool(**CLAIM), SETTINGS) != same


def test_a_claim_is_of_the_node_and_the_pool() -> None:
    body = make_claim(pool(cache={"claimTemplate": {"size": "9Gi", "storageClassName": "fast"}}), "node-1", SETTINGS)
    assert body["metadata"]["name"] == "gpu-node-1"
    assert body["metadata"]["ownerReferences"][0]["uid"] == "pool-uid"
    assert body["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "9Gi"}},
        "storageClassName": "fast",
    }
    assert "storageClassName" not in make_claim(pool(**CLAIM), "n", SETTINGS)["spec"]


def test_a_pool_without_claims_makes_none() -> None:
    with pytest.raises(ValueError, match="claimTemplate is needed"):
        make_claim(pool(), "n", SETTINGS)


def test_a_pod_that_is_not_ours_runs_where_it_was_put() -> None:
    assert node_of({"metadata": {}, "spec": {"nodeName": "n"}}) == "n"
    assert node_of({"metadata": {}}) == ""
