"""Where the API server keeps each kind, and what of a body says so."""

from __future__ import annotations

import pytest

from forebay_operator.cluster.kinds import KINDS


def test_paths() -> None:
    assert KINDS.POD.path("ns", "a") == "/api/v1/namespaces/ns/pods/a"
    assert KINDS.NODE.path("", "n1") == "/api/v1/nodes/n1"
    assert KINDS.FUNCTION.path("ns", "f", "status") == "/apis/forebay.dev/v1alpha1/namespaces/ns/llmfunctions/f/status"
    assert KINDS.LEASE.path("ns") == "/apis/coordination.k8s.io/v1/namespaces/ns/leases"


def test_a_namespaced_kind_needs_its_namespace() -> None:
    with pytest.raises(ValueError, match="a namespace is needed"):
        KINDS.SECRET.path("", "ca")


def test_kinds_of_bodies() -> None:
    assert KINDS.of({"apiVersion": "v1", "kind": "Secret"}) is KINDS.SECRET
    with pytest.raises(ValueError, match="'Deployment'"):
        KINDS.of({"apiVersion": "apps/v1", "kind": "Deployment"})
