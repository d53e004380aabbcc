"""The operator's settings: frozen, parsed once at the edge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forebay_api import local, names


class InvalidSetting(Exception):
    """A variable that cannot be read; the text names it, its value and what would be right."""


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """``state``: folder of the files that others find us by. ``address``: where to listen, ``unix:/path`` or
    ``host:port`` (port 0: any free one). ``gateway_url``: what the URLs of functions begin with. ``metrics_port``:
    None = no endpoint of our own."""

    state: Path
    address: str
    gateway_url: str
    metrics_port: int | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> OperatorConfig:
        """From ``FOREBAY_STATE``, ``FOREBAY_OPERATOR``, ``FOREBAY_GATEWAY_URL`` and ``FOREBAY_METRICS_PORT``.

        Raises InvalidSetting."""
        state = Path(local.default_state(environ, os.getuid())).absolute()
        return cls(
            state=state,
            address=environ.get("FOREBAY_OPERATOR", f"unix:{state / local.OPERATOR_SOCKET}"),
            gateway_url=environ.get("FOREBAY_GATEWAY_URL", f"http://127.0.0.1:{names.GATEWAY_PORT}"),
            metrics_port=port(environ, "FOREBAY_METRICS_PORT"),
        )


def port(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise InvalidSetting(f"{name}={text!r}: expected a port number, 0 to 65535")
    return int(text)
