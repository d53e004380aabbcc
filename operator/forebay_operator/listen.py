"""Listening for gRPC on a unix socket or a TCP port that nobody else has."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc

from forebay_channel import Identity, InvalidIdentity, add_port

SOCKET_PATH_BYTES = 107
"""What a unix socket's address can hold on Linux."""

MESSAGE_BYTES = 64 << 20
"""Longest message either way: a view of many workers, a report of many units."""

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A pulled cable breaks no TCP stream: ask every 2 s, give up after 3, and let clients ask us as often.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    # Two servers on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
)


class CannotListen(Exception):
    """The address is taken or makes no sense. The text names it and says what would be right."""


def listen(server: grpc.aio.Server, address: str, identity: Identity | None = None) -> str:
    """Bind ``server`` to ``unix:/path`` or ``host:port``; the address that others reach it by (port 0 replaced).

    With an identity, a port takes mutual TLS only; a socket is plain. Raises CannotListen.
    """
    path = unix_path(address)
    if path is not None:
        _clear(path)
    elif not address.rpartition(":")[0] or not address.rpartition(":")[2].isdecimal():
        raise CannotListen(f"{address!r} is no address: expected unix:/path or host:port")
    try:
        port = add_port(server, address, identity)
    except InvalidIdentity as error:
        raise CannotListen(f"cannot listen on {address}: {error}") from error
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {address}: the address is in use or not ours") from error
    return address if path is not None else f"{address.rpartition(':')[0]}:{port}"


def unix_path(address: str) -> Path | None:
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None


def _clear(path: Path) -> None:
    """Make way for a socket: gRPC itself would take the place of a server that lives."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise CannotListen(f"unix:{path}: a socket's path has at most {SOCKET_PATH_BYTES} bytes: choose a shorter one")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # left behind by a process that was killed
            return
        except OSError as error:
            raise CannotListen(f"cannot listen on unix:{path}: {error.strerror or error}") from error
    raise CannotListen(f"cannot listen on unix:{path}: another operator does")
