"""What an operator in a cluster is told by its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay_operator.cluster.config import Certificates, ClusterConfig
from forebay_operator.config import InvalidSetting

LEAST = {"POD_NAME": "forebay-operator-7d4f-x", "POD_NAMESPACE": "system", "FOREBAY_RELEASE": "forebay"}


def test_the_least() -> None:
    config = ClusterConfig.from_env(LEAST)
    assert (config.address, config.view) == ("0.0.0.0:9443", "127.0.0.1:9444")
    assert config.gateway_url == "http://forebay-gateway.system.svc"
    assert config.worker_operator == "forebay-operator.system.svc:9443"
    assert (config.health_port, config.metrics_port, config.identity) == (8081, None, None)
    assert config.certificates is Certificates.MANAGED


def test_all() -> None:
    more = {
        "FOREBAY_TLS": "/etc/forebay/tls",
        "FOREBAY_METRICS_PORT": "9090",
        "FOREBAY_GATEWAY_URL": "https://llm.example.com/",
        "FOREBAY_DOMAIN": ".LLM.example.com",
        "FOREBAY_PULL_SECRETS": "a, b,",
        "FOREBAY_CERTIFICATES": "Given",
        "FOREBAY_VIEW": "[::1]:9444",
    }
    config = ClusterConfig.from_env({**LEAST, **more})
    assert config.identity is not None
    assert (config.identity.folder, config.identity.release) == (Path("/etc/forebay/tls"), "forebay")
    assert (config.gateway_url, config.domain) == ("https://llm.example.com", "llm.example.com")
    assert (config.pull_secrets, config.metrics_port) == (("a", "b"), 9090)
    assert config.certificates is Certificates.GIVEN


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POD_NAME", ""),
        ("POD_NAMESPACE", "My Namespace"),
        ("FOREBAY_RELEASE", ""),
        ("FOREBAY_OPERATOR", "9443"),
        ("FOREBAY_OPERATOR", "0.0.0.0:99999"),
        ("FOREBAY_VIEW", "0.0.0.0:9444"),
        ("FOREBAY_VIEW", "example.com:9444"),
        ("FOREBAY_HEALTH_PORT", "many"),
        ("FOREBAY_METRICS_PORT", "-1"),
        ("FOREBAY_GATEWAY_URL", "gateway"),
        ("FOREBAY_DOMAIN", "a b"),
        ("FOREBAY_WORKER_PULL_POLICY", "Sometimes"),
        ("FOREBAY_WORKER_OPERATOR", "operator"),
        ("FOREBAY_CERTIFICATES", "None"),
    ],
)
def test_a_wrong_one_is_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{variable}='{value}'.*expected"):
        ClusterConfig.from_env({**LEAST, variable: value})
