"""The client's side: where a target's servers are, a channel to one of them, and whether it answers."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from collections.abc import Sequence

import grpc

from forebay_channel.identity import Identity, Role

LOOK_UP_SECONDS = 2.0

Option = tuple[str, str | int]

DIRECT: Option = ("grpc.enable_http_proxy", 0)
"""The proxy that a cluster's pods fetch models through (https_proxy) does not know their neighbours, nor may it."""


class Unreachable(ConnectionError):
    """Nobody answers there, or somebody whose certificate is not the expected one."""


def open_channel(target: str, options: Sequence[Option], *, identity: Identity | None, role: Role) -> grpc.aio.Channel:
    """A channel to ``target``, where somebody of ``role`` must answer.

    Certificates are read now: a channel shows what there was when it was opened, so open a new one after it broke.

    Raises InvalidIdentity.
    """
    direct = (*options, DIRECT)
    if identity is None or target.startswith("unix:"):
        return grpc.aio.insecure_channel(target, options=direct)
    files = identity.read()
    credentials = grpc.ssl_channel_credentials(files.authority, files.key, files.certificate)
    # A pod's address stands in no certificate: what is checked is the role.
    named = ("grpc.ssl_target_name_override", identity.name(role))
    return grpc.aio.secure_channel(target, credentials, options=(*direct, named))


async def connected(channel: grpc.aio.Channel, seconds: float) -> None:
    """Wait for the first attempt to connect. Raises Unreachable when it fails or takes longer."""
    try:
        async with asyncio.timeout(seconds):
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                    raise Unreachable("nobody answers there, or a certificate was refused")
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        raise Unreachable(f"no connection within {seconds:g} s") from None


async def addresses(target: str) -> tuple[str, ...]:
    """Every address of ``host:port`` that DNS has, in random order; ``unix:…`` as it is.

    Raises OSError when the name is unknown or DNS does not answer within 2 s.
    """
    if target.startswith("unix:"):
        return (target,)
    host, _, port = target.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if _is_number(bare):
        return (target,)
    async with asyncio.timeout(LOOK_UP_SECONDS):
        found = await asyncio.get_running_loop().getaddrinfo(bare, port, type=socket.SOCK_STREAM)
    unique = list({_written(str(where[0]), int(where[1])) for *_, where in found})
    random.shuffle(unique)
    return tuple(unique)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
