"""The gateway's settings: frozen, parsed once at the edge."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from forebay_api import local, names
from forebay_channel import Identity, InvalidIdentity
from forebay_process import release

Value = TypeVar("Value", int, float, str)


class InvalidSetting(Exception):
    """A variable that cannot be read; the text names it, its value and what would be right."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may make the gateway hold.

    ``body_bytes``: one request's body. ``body_seconds``: how long it may take to arrive. ``answer_bytes``: one answer
    that is not streamed. ``held_bytes``: both of all requests; budgets per function come with its route.
    ``table_seconds``: how long a request waits for the first table of functions after the gateway began.
    """

    body_bytes: int = 16 << 20
    body_seconds: float = 30.0
    answer_bytes: int = 64 << 20
    held_bytes: int = 512 << 20
    table_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """``port`` 0 = any free one. ``operator``: gRPC targets, divided by commas. ``domain``: of
    ``<function>.<namespace>.<domain>`` host names, empty = none. ``drain_seconds``: how long open streams may go on
    after a stop; ``lame_duck_seconds``: how long before that new requests are still taken, though it says that it is
    not ready. ``identity``: None = plain text. ``metrics_release``: what the series of
    /metrics are labelled with, empty = nothing."""

    host: str
    port: int
    operator: str
    state: Path
    domain: str = ""
    drain_seconds: float = 30.0
    lame_duck_seconds: float = 0.0
    identity: Identity | None = None
    metrics_release: str = ""
    limits: Limits = field(default=Limits())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> GatewayConfig:
        """Raises InvalidSetting."""
        state = Path(local.default_state(environ, os.getuid())).absolute()
        return cls(
            host=environ.get("FOREBAY_HOST", "127.0.0.1"),
            port=_read(environ, "FOREBAY_PORT", int, names.GATEWAY_PORT, "a port number"),
            operator=environ.get("FOREBAY_OPERATOR") or default_operator(state),
            state=state,
            domain=environ.get("FOREBAY_DOMAIN", "").strip(".").lower(),
            drain_seconds=_read(environ, "FOREBAY_DRAIN_SECONDS", float, 30.0, "a number of seconds"),
            lame_duck_seconds=_read(environ, "FOREBAY_LAME_DUCK_SECONDS", float, 0.0, "a number of seconds"),
            identity=_identity(environ),
            metrics_release=_metrics_release(environ),
        )


def default_operator(state: Path) -> str:
    """Where an operator of the same machine listens."""
    return f"unix:{state / local.OPERATOR_SOCKET}"


def _metrics_release(environ: Mapping[str, str]) -> str:
    try:
        return release.told(environ)
    except release.InvalidRelease as error:
        raise InvalidSetting(str(error)) from None


def _identity(environ: Mapping[str, str]) -> Identity | None:
    try:
        return Identity.from_env(environ)
    except InvalidIdentity as error:
        raise InvalidSetting(str(error)) from None


def _read(environ: Mapping[str, str], name: str, parse: Callable[[str], Value], default: Value, right: str) -> Value:
    text = environ.get(name)
    if text is None:
        return default
    try:
        value = parse(text)
    except ValueError:
        raise InvalidSetting(f"{name}={text!r}: expected {right}") from None
    if not isinstance(value, str) and value < 0:
        raise InvalidSetting(f"{name}={text!r}: expected {right}, not below 0")
    return value
