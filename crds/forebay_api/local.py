"""Where the processes of one machine meet: the names in a state folder."""

from __future__ import annotations

from collections.abc import Mapping


def default_state(environ: Mapping[str, str], uid: int) -> str:
    """One place per user: ``$FOREBAY_STATE``, else a folder of the session's runtime directory, else one in /tmp."""
    if state := environ.get("FOREBAY_STATE"):
        return state
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/forebay"
    return f"/tmp/forebay-{uid}"


OPERATOR_SOCKET = "operator.sock"
OPERATOR_FILE = "operator.json"  # {"pid": ..., "address": ...}
GATEWAY_FILE = "gateway.json"  # {"pid": ..., "url": ...}
LOGS = "logs"

LONGEST_SOCKET_PATH = 107
"""Bytes: what a unix socket's address can hold."""

MOST_WORKERS = 64
"""That one zygote forks."""
