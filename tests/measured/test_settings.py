"""What the environment says of Prometheus, and what is refused of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay_cli import up
from forebay_operator.cluster.config import ClusterConfig
from forebay_operator.config import InvalidSetting, OperatorConfig, PrometheusConfig

PREFIX = "FOREBAY_PROMETHEUS_"
LEAST = {f"{PREFIX}URL": "http://prometheus:9090/"}
CLUSTER = {"POD_NAME": "forebay-operator-7d4f-x", "POD_NAMESPACE": "system", "FOREBAY_RELEASE": "forebay"}


def test_without_a_url_there_is_none() -> None:
    environ = {f"{PREFIX}TOKEN_FILE": "relative and unused", "FOREBAY_STATE": "/state"}
    assert PrometheusConfig.from_env(environ) is None
    assert OperatorConfig.from_env(environ).prometheus is None


def test_the_least() -> None:
    found = PrometheusConfig("http://prometheus:9090")
    assert OperatorConfig.from_env({**LEAST, "FOREBAY_STATE": "/state"}).prometheus == found
    assert ClusterConfig.from_env({**LEAST, **CLUSTER}).prometheus == found


def test_all() -> None:
    given = {
        "URL": "https://prometheus/select/0",
        "USERNAME_FILE": "/s/user",
        "PASSWORD_FILE": "/s/password",
        "CA_FILE": "/s/ca",
        "TIMEOUT": "1.5",
        "INTERVAL": "15",
    }
    assert PrometheusConfig.from_env({f"{PREFIX}{name}": value for name, value in given.items()}) == PrometheusConfig(
        "https://prometheus/select/0", None, Path("/s/user"), Path("/s/password"), Path("/s/ca"), 1.5, 15.0
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"URL": "prometheus:9090"}, "URL='prometheus:9090': expected http"),
        ({"URL": "http://prometheus?a=b"}, "URL"),
        ({"TOKEN_FILE": "token"}, "TOKEN_FILE='token': expected an absolute path"),
        ({"USERNAME_FILE": "/user"}, "PASSWORD_FILE: expected both"),
        ({"PASSWORD_FILE": "/password"}, "USERNAME_FILE"),
        ({"TOKEN_FILE": "/t", "USERNAME_FILE": "/u", "PASSWORD_FILE": "/p"}, "TOKEN_FILE: expected either"),
        ({"TIMEOUT": "0"}, "TIMEOUT='0': expected seconds, 0.1 to 300"),
        ({"TIMEOUT": "soon"}, "TIMEOUT"),
        ({"INTERVAL": "1e9"}, "INTERVAL"),
        ({"INTERVAL": "301"}, "INTERVAL"),
        ({"INTERVAL": "nan"}, "INTERVAL"),
    ],
)
def test_a_wrong_one_is_named(given: dict[str, str], named: str) -> None:
    environ = {**LEAST, **{f"{PREFIX}{name}": value for name, value in given.items()}}
    with pytest.raises(InvalidSetting, match=f"{PREFIX}.*{named}"):
        PrometheusConfig.from_env(environ)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidSetting) as error:
        PrometheusConfig.from_env({f"{PREFIX}URL": "http://user:sesame@prometheus"})
    assert "sesame" not in str(error.value)


def test_forebay_up_reads_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}URL", "prometheus")
    with pytest.raises(up.CannotStart, match="expected http"):
        up._prometheus()
    monkeypatch.setenv(f"{PREFIX}URL", "http://prometheus")
    assert up._prometheus() == PrometheusConfig("http://prometheus")
