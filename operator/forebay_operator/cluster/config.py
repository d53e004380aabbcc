"""The settings of an operator in a cluster: frozen, parsed once at the edge."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from forebay_channel import Identity, InvalidIdentity
from forebay_operator.config import InvalidSetting, PrometheusConfig, metrics_release, port

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


class Certificates(StrEnum):
    """``MANAGED``: the leader makes and renews them; ``GIVEN``: somebody else does."""

    MANAGED = "Managed"
    GIVEN = "Given"


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """``pod`` and ``namespace``: our own. ``release``: the chart's full name. ``address``: where to listen; ``view``:
    where to show, in plain text on loopback. ``gateway_url``: what the URLs of functions begin with; ``domain``: below
    which they have hosts, empty = none. The ``worker_`` ones are for the pods of workers: ``worker_operator`` is what
    they attach to. ``identity``: None = plain text. ``prometheus``: None = gateways alone say what is asked.
    ``metrics_release``: what the series are labelled with, empty = nothing."""

    pod: str
    namespace: str
    release: str
    address: str
    view: str
    health_port: int
    metrics_port: int | None
    gateway_url: str
    domain: str
    worker_image: str
    worker_pull_policy: str
    worker_operator: str
    pull_secrets: tuple[str, ...]
    certificates: Certificates
    identity: Identity | None
    prometheus: PrometheusConfig | None = None
    metrics_release: str = ""

    @property
    def host(self) -> str:
        """Of ``address``, as sockets take it."""
        return self.address.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> ClusterConfig:
        """Raises InvalidSetting, which names the variable."""
        namespace = _name(environ, "POD_NAMESPACE")
        release = _name(environ, "FOREBAY_RELEASE")
        return cls(
            pod=_name(environ, "POD_NAME", DNS_NAME),
            namespace=namespace,
            release=release,
            address=_address(environ, "FOREBAY_OPERATOR", "0.0.0.0:9443"),
            view=_loopback(environ, "FOREBAY_VIEW", "127.0.0.1:9444"),
            health_port=port(environ, "FOREBAY_HEALTH_PORT") or 8081,
            metrics_port=port(environ, "FOREBAY_METRICS_PORT"),
            gateway_url=_url(environ, "FOREBAY_GATEWAY_URL", f"http://{release}-gateway.{namespace}.svc"),
            domain=_domain(environ, "FOREBAY_DOMAIN"),
            worker_image=environ.get("FOREBAY_WORKER_IMAGE", ""),
            worker_pull_policy=_choice(environ, "FOREBAY_WORKER_PULL_POLICY", PULL_POLICIES, "IfNotPresent"),
            worker_operator=_address(environ, "FOREBAY_WORKER_OPERATOR", f"{release}-operator.{namespace}.svc:9443"),
            pull_secrets=tuple(filter(None, map(str.strip, environ.get("FOREBAY_PULL_SECRETS", "").split(",")))),
            certificates=Certificates(_choice(environ, "FOREBAY_CERTIFICATES", tuple(Certificates), "Managed")),
            identity=_identity(environ),
            prometheus=PrometheusConfig.from_env(environ),
            metrics_release=metrics_release(environ),
        )


def _name(environ: Mapping[str, str], variable: str, pattern: re.Pattern[str] = NAME) -> str:
    text = environ.get(variable, "")
    if not pattern.fullmatch(text):
        raise InvalidSetting(f"{variable}={text!r}: expected a name of lower-case letters, digits and '-'")
    return text


def _address(environ: Mapping[str, str], variable: str, default: str) -> str:
    text = environ.get(variable) or default
    host, _, number = text.rpartition(":")
    if not host or not number.isdecimal() or int(number) > 65535:
        raise InvalidSetting(f"{variable}={text!r}: expected host:port")
    return text


def _loopback(environ: Mapping[str, str], variable: str, default: str) -> str:
    """What is said there is plain text."""
    text = _address(environ, variable, default)
    host = text.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        raise InvalidSetting(f"{variable}={text!r}: expected an address of loopback, such as {default}")
    return text


def _url(environ: Mapping[str, str], variable: str, default: str) -> str:
    text = environ.get(variable) or default
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise InvalidSetting(f"{variable}={text!r}: expected http://host or https://host")
    return text.rstrip("/")


def _domain(environ: Mapping[str, str], variable: str) -> str:
    text = environ.get(variable, "").strip(".").lower()
    if text and not DNS_NAME.fullmatch(text):
        raise InvalidSetting(f"{variable}={text!r}: expected a domain such as llm.example.com, or nothing")
    return text


def _choice(environ: Mapping[str, str], variable: str, choices: tuple[str, ...], default: str) -> str:
    text = environ.get(variable) or default
    if text not in choices:
        raise InvalidSetting(f"{variable}={text!r}: expected one of {', '.join(choices)}")
    return text


def _identity(environ: Mapping[str, str]) -> Identity | None:
    try:
        return Identity.from_env(environ)
    except InvalidIdentity as error:
        raise InvalidSetting(str(error)) from error
