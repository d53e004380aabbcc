"""The operator's settings: frozen, parsed once at the edge."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forebay_api import local, names
from forebay_process import release

PROMETHEUS_TIMEOUT = 4.0
PROMETHEUS_INTERVAL = 5.0
"""Seconds, where nothing else is said."""


class InvalidSetting(Exception):
    """A variable that cannot be read; the text names it, its value and what would be right."""


@dataclass(frozen=True, slots=True)
class PrometheusConfig:
    """A Prometheus that measures for the autoscaler. ``timeout`` and ``interval`` in seconds: of one query, and from
    one round of queries to the next. Credentials are files, read anew for each query: a bearer token, or user name and
    password. ``ca_file`` in PEM; None = the authorities of the system. ``release``: whose series
    to ask for, empty = those that name none."""

    url: str
    token_file: Path | None = None
    username_file: Path | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    timeout: float = PROMETHEUS_TIMEOUT
    interval: float = PROMETHEUS_INTERVAL
    release: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> PrometheusConfig | None:
        """From ``FOREBAY_PROMETHEUS_URL`` and its siblings; None without a URL. Raises InvalidSetting."""
        url = _prometheus_url(environ)
        if url is None:
            return None
        token, username, password = (
            _file(environ, f"FOREBAY_PROMETHEUS_{name}_FILE") for name in ("TOKEN", "USERNAME", "PASSWORD")
        )
        if (username is None) != (password is None):
            raise InvalidSetting(
                "FOREBAY_PROMETHEUS_USERNAME_FILE, FOREBAY_PROMETHEUS_PASSWORD_FILE: expected both or neither"
            )
        if token and username:
            raise InvalidSetting(
                "FOREBAY_PROMETHEUS_TOKEN_FILE: expected either a bearer token or user name and password"
            )
        return cls(
            url,
            token,
            username,
            password,
            _file(environ, "FOREBAY_PROMETHEUS_CA_FILE"),
            _seconds(environ, "FOREBAY_PROMETHEUS_TIMEOUT", PROMETHEUS_TIMEOUT),
            _seconds(environ, "FOREBAY_PROMETHEUS_INTERVAL", PROMETHEUS_INTERVAL),
            metrics_release(environ),
        )


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """``state``: folder of the files that others find us by. ``address``: where to listen, ``unix:/path`` or
    ``host:port`` (port 0: any free one). ``gateway_url``: what the URLs of functions begin with. ``metrics_port``:
    None = no endpoint of our own. ``prometheus``: None = gateways alone say what is asked.
    ``metrics_release``: what the series are labelled with, empty = nothing."""

    state: Path
    address: str
    gateway_url: str
    metrics_port: int | None
    prometheus: PrometheusConfig | None = None
    metrics_release: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> OperatorConfig:
        """From ``FOREBAY_STATE``, ``FOREBAY_OPERATOR``, ``FOREBAY_GATEWAY_URL``, ``FOREBAY_METRICS_PORT``,
        ``FOREBAY_METRICS_RELEASE`` and ``FOREBAY_PROMETHEUS_URL`` with its siblings.

        Raises InvalidSetting."""
        state = Path(local.default_state(environ, os.getuid())).absolute()
        return cls(
            state=state,
            address=environ.get("FOREBAY_OPERATOR", f"unix:{state / local.OPERATOR_SOCKET}"),
            gateway_url=environ.get("FOREBAY_GATEWAY_URL", f"http://127.0.0.1:{names.GATEWAY_PORT}"),
            metrics_port=port(environ, "FOREBAY_METRICS_PORT"),
            prometheus=PrometheusConfig.from_env(environ),
            metrics_release=metrics_release(environ),
        )


def metrics_release(environ: Mapping[str, str]) -> str:
    """From ``FOREBAY_METRICS_RELEASE``. Raises InvalidSetting."""
    try:
        return release.told(environ)
    except release.InvalidRelease as error:
        raise InvalidSetting(str(error)) from None


def port(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise InvalidSetting(f"{name}={text!r}: expected a port number, 0 to 65535")
    return int(text)


def _prometheus_url(environ: Mapping[str, str]) -> str | None:
    name = "FOREBAY_PROMETHEUS_URL"
    text = environ.get(name, "")
    if not text:
        return None
    if "@" in text:  # not shown: what stands before it may be a password
        raise InvalidSetting(f"{name}: expected a URL without credentials, which have files of their own")
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", text):
        raise InvalidSetting(f"{name}={text!r}: expected http://host or https://host, with the path before /api if any")
    return text.rstrip("/")


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    """It need not be there yet."""
    text = environ.get(name, "")
    if text and not Path(text).is_absolute():
        raise InvalidSetting(f"{name}={text!r}: expected an absolute path")
    return Path(text) if text else None


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text) or not 0.1 <= float(text) <= 300:
        raise InvalidSetting(f"{name}={text!r}: expected seconds, 0.1 to 300")
    return float(text)
