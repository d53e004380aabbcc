"""What the chart lets its pods do: to the API server, to their node, and to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chart.rendering import EVERYTHING, NAMESPACE, Body, Rendered, every_helm, render

pytestmark = pytest.mark.parametrize("helm", every_helm())

ROLES = ("ClusterRole", "Role")
READ = {"get", "list", "watch"}


def rules(body: Body) -> list[tuple[str, tuple[str, ...], tuple[str, ...], frozenset[str]]]:
    """(group, resources, names, verbs)"""
    return [
        (
            ",".join(rule["apiGroups"]),
            tuple(rule["resources"]),
            tuple(rule.get("resourceNames", ())),
            frozenset(rule["verbs"]),
        )
        for rule in body["rules"]
    ]


def pods(rendered: Rendered) -> dict[str, Body]:
    return {
        "operator": rendered.pod("operator"),
        "gateway": rendered.pod("gateway"),
        "test": rendered.one("Pod", "forebay-test")["spec"],
    }


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_no_right_is_a_wildcard(helm: Path, values: Body) -> None:
    for body in render(helm, values).all:
        if body["kind"] in ROLES:
            for rule in body["rules"]:
                assert not any("*" in word for words in rule.values() for word in words), body["metadata"]["name"]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_secrets_are_read_by_name_only(helm: Path, values: Body) -> None:
    for body in render(helm, values).all:
        if body["kind"] in ROLES:
            for _, resources, names, verbs in rules(body):
                if "secrets" in resources:
                    assert body["kind"] == "Role"
                    assert verbs <= {"get", "update"} if names else verbs == {"create"}


def test_the_operator_may_do_what_it_does_and_no_more(helm: Path) -> None:
    rendered = render(helm)
    assert rules(rendered.one("ClusterRole", f"{NAMESPACE}:forebay-operator")) == [
        ("forebay.dev", ("llmfunctions",), (), READ),
        ("forebay.dev", ("llmfunctions/status",), (), {"patch"}),
        ("", ("nodes",), (), READ),
        ("events.k8s.io", ("events",), (), {"create", "patch"}),
    ]
    assert rules(rendered.one("Role", "forebay-operator")) == [
        ("forebay.dev", ("workerpools",), (), READ | {"create", "patch", "delete"}),
        ("forebay.dev", ("workerpools/status",), (), {"patch"}),
        ("forebay.dev", ("workerpools/finalizers",), (), {"update"}),
        ("", ("pods",), (), READ | {"create", "delete"}),
        ("", ("persistentvolumeclaims",), (), READ | {"create"}),
        ("", ("configmaps",), ("forebay-pool", "forebay-owner"), {"get"}),
        ("coordination.k8s.io", ("leases",), (), {"create"}),
        ("coordination.k8s.io", ("leases",), ("forebay-operator",), {"get", "update"}),
        ("", ("secrets",), (), {"create"}),
        (
            "",
            ("secrets",),
            ("forebay-ca", "forebay-operator-tls", "forebay-gateway-tls", "forebay-worker-tls"),
            {"get", "update"},
        ),
    ]


@pytest.mark.parametrize("mode", ["CertManager", "Existing"])
def test_given_certificates_leave_the_operator_its_own_secret(helm: Path, mode: str) -> None:
    rendered = render(helm, {"certificates": {"mode": mode}})
    secrets = [rule for rule in rules(rendered.one("Role", "forebay-operator")) if "secrets" in rule[1]]
    assert secrets == [("", ("secrets",), ("forebay-operator-tls",), {"get"})]
    assert rendered.env("operator")["FOREBAY_CERTIFICATES"] == "Given"


def test_roles_are_bound_to_the_operators_account_alone(helm: Path) -> None:
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        for body in render(helm, EVERYTHING).of(kind).values():
            assert body["subjects"] == [{"kind": "ServiceAccount", "name": "forebay-operator", "namespace": NAMESPACE}]


def test_a_release_of_the_same_name_elsewhere_takes_nothing_over(helm: Path) -> None:
    here, there = (
        {
            (body["kind"], body["metadata"]["name"])
            for body in render(helm, EVERYTHING, "--namespace", namespace).all
            if "namespace" not in body["metadata"] and body["kind"] != "CustomResourceDefinition"
        }
        for namespace in ("a", "b")
    )
    assert here
    assert here & there == set()
    for binding in render(helm).of("ClusterRoleBinding").values():
        assert binding["roleRef"]["name"] in render(helm).of("ClusterRole")


def test_listed_credentials_are_readable_where_they_are(helm: Path) -> None:
    found = {
        body["metadata"]["namespace"]: rules(body)
        for body in render(helm, EVERYTHING).all
        if body["kind"] == "Role" and body["metadata"]["name"] == "forebay-credentials"
    }
    assert found == {
        "team-a": [("", ("secrets",), ("hub", "s3"), {"get"})],
        "team-b": [("", ("secrets",), ("s3",), {"get"})],
    }


def test_people_get_their_rights_by_the_usual_roles(helm: Path) -> None:
    rendered = render(helm)
    for role in ("admin", "edit", "view"):
        body = rendered.one("ClusterRole", f"{NAMESPACE}:forebay-{role}")
        assert body["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{role}"] == "true"
        written = {resource for _, resources, _, verbs in rules(body) if "create" in verbs for resource in resources}
        assert written == {"admin": {"llmfunctions", "workerpools"}, "edit": {"llmfunctions"}, "view": set()}[role]


def test_only_the_operator_has_a_token(helm: Path) -> None:
    rendered = render(helm)
    tokens = {name: pod["automountServiceAccountToken"] for name, pod in pods(rendered).items()}
    assert tokens == {"operator": True, "gateway": False, "test": False}
    assert {body["automountServiceAccountToken"] for body in rendered.of("ServiceAccount").values()} == {False}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_pods_keep_to_the_restricted_standard(helm: Path, values: Body) -> None:
    for name, pod in pods(render(helm, values)).items():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 65532, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


def test_our_own_volumes_are_of_the_restricted_kinds(helm: Path) -> None:
    rendered = render(helm)
    kinds = {
        (component, volume["name"]): next(iter(volume.keys() - {"name"}))
        for component in ("operator", "gateway")
        for volume in rendered.pod(component)["volumes"]
    }
    assert kinds == {
        ("operator", "tmp"): "emptyDir",
        ("operator", "tls"): "emptyDir",
        ("gateway", "tmp"): "emptyDir",
        ("gateway", "tls"): "secret",
    }
    (secret,) = [volume["secret"] for volume in rendered.pod("gateway")["volumes"] if volume["name"] == "tls"]
    assert secret == {"secretName": "forebay-gateway-tls", "defaultMode": 0o440}


def test_certificates_of_cert_manager_name_roles(helm: Path) -> None:
    rendered = render(helm, {"certificates": {"mode": "CertManager"}}, release="prod")
    found = {name: body["spec"] for name, body in rendered.of("Certificate").items()}
    for role in ("operator", "gateway", "worker"):
        spec = found[f"prod-forebay-{role}-tls"]
        assert spec["secretName"] == f"prod-forebay-{role}-tls"
        assert spec["dnsNames"] == [f"{role}.prod-forebay"]
        assert {"server auth", "client auth"} <= set(spec["usages"])
        assert spec["issuerRef"]["name"] == "prod-forebay-ca"
    assert found["prod-forebay-ca"]["isCA"] is True
    given = {"mode": "CertManager", "certManager": {"issuerRef": {"name": "house", "kind": "ClusterIssuer"}}}
    rendered = render(helm, {"certificates": given})
    assert rendered.of("Issuer") == {}
    assert {body["spec"]["issuerRef"]["name"] for body in rendered.of("Certificate").values()} == {"house"}


# Who may open a connection to whom: (from, to, port). None: any port, or anybody.
WAYS = {
    ("operator", "operator", 9443),
    ("gateway", "operator", 9443),
    ("worker", "operator", 9443),
    ("gateway", "worker", None),
    ("worker", "worker", None),
}


def component(peer: Any) -> str:
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return str(labels.get("app.kubernetes.io/component", peer))


def ways(policies: dict[str, Body], direction: str) -> set[tuple[str, str, int | None]]:
    """Those between components."""
    end = {"ingress": "from", "egress": "to"}[direction]
    found = set()
    for body in policies.values():
        this = component(body["spec"])
        for rule in body["spec"][direction]:
            for peer in rule.get(end, []):
                for port in rule.get("ports", [{}]):
                    pair = (component(peer), this) if direction == "ingress" else (this, component(peer))
                    if "podSelector" in peer:
                        found.add((*pair, port.get("port")))
    return found


def test_components_reach_each_other_where_they_must_and_nowhere_else(helm: Path) -> None:
    policies = render(helm).of("NetworkPolicy")
    assert {component(body["spec"]) for body in policies.values()} == {"operator", "gateway", "worker"}
    assert all(body["spec"]["policyTypes"] == ["Ingress", "Egress"] for body in policies.values())
    assert ways(policies, "ingress") == WAYS
    assert ways(policies, "egress") == WAYS


def open_ports(body: Body, direction: str, end: str) -> set[tuple[str, int]]:
    """Ports that are open to, or of, everybody."""
    anybody: list[Any] = [{"namespaceSelector": {}}]
    return {
        (port["protocol"], port["port"])
        for rule in body["spec"][direction]
        if rule.get(end, anybody) == anybody
        for port in rule["ports"]
    }


def test_the_rest_of_the_world_reaches_http_and_metrics(helm: Path) -> None:
    """And probes, which come from the pod's own node and are never subject to policies."""
    policies = render(helm).of("NetworkPolicy")
    dns = {("UDP", 53), ("TCP", 53)}
    found = {
        name.removeprefix("forebay-"): (open_ports(body, "ingress", "from"), open_ports(body, "egress", "to"))
        for name, body in policies.items()
    }
    assert found == {
        "operator": ({("TCP", 9090)}, dns | {("TCP", 443), ("TCP", 6443)}),
        "gateway": ({("TCP", 8080)}, dns),
        "worker": ({("TCP", 9090)}, dns | {("TCP", 80), ("TCP", 443)}),
    }


def test_policies_close_what_values_say(helm: Path) -> None:
    policies = render(helm, EVERYTHING).of("NetworkPolicy")
    assert open_ports(policies["forebay-gateway"], "ingress", "from") == set()
    assert open_ports(policies["forebay-worker"], "ingress", "from") == set()
    assert open_ports(policies["forebay-operator"], "ingress", "from") == set()
    assert ("TCP", 9000) in open_ports(policies["forebay-worker"], "egress", "to")
    (callers,) = [rule["from"] for rule in policies["forebay-gateway"]["spec"]["ingress"]]
    assert component(callers[0]) == "test"
    # Prometheus asks the port that callers use.
    given = EVERYTHING["networkPolicy"]
    assert callers[1:] == [*given["gatewayFrom"], *given["metricsFrom"]]
    edge = {"networkPolicy": {"gatewayFrom": given["gatewayFrom"]}}
    (callers,) = [
        rule["from"] for rule in render(helm, edge).one("NetworkPolicy", "forebay-gateway")["spec"]["ingress"]
    ]
    assert callers[1:] == given["gatewayFrom"]  # nobody said who reads metrics: not everybody calls the gateway


def test_dns_is_where_the_cluster_has_it(helm: Path) -> None:
    policies = render(helm, {"networkPolicy": {"dnsPorts": [5353, 53]}}).of("NetworkPolicy")
    assert [open_ports(body, "egress", "to") for body in policies.values() if component(body["spec"]) == "gateway"] == [
        {("UDP", 5353), ("TCP", 5353), ("UDP", 53), ("TCP", 53)}
    ]
