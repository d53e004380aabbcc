"""The operator alone, its functions from files, listening with the certificates that FOREBAY_TLS names."""

from __future__ import annotations

import os
import sys
from functools import partial

import grpc

import forebay_operator.server
from forebay_channel import Guard, Identity, Role
from forebay_operator.__main__ import main
from forebay_operator.listen import listen

CALLERS = {
    "forebay_wire.v1.Fleet": (Role.WORKER,),
    "forebay_wire.v1.Demand": (Role.GATEWAY,),
    "forebay_wire.v1.Routes": (Role.GATEWAY,),
    "forebay_wire.v1.View": (Role.OPERATOR, Role.GATEWAY),
    "grpc.health.v1.Health": tuple(Role),
}

identity = Identity.from_env(os.environ)
os.environ.pop("FOREBAY_TLS", None)  # one of files refuses it, since by itself it speaks plain text


def listen_with_identity(server: grpc.aio.Server, address: str) -> str:
    return listen(server, address, identity)


if __name__ == "__main__":
    grpc.aio.server = partial(grpc.aio.server, interceptors=[Guard(CALLERS, identity)])
    forebay_operator.server.listen = listen_with_identity
    sys.exit(main())
