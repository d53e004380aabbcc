"""Who talks to whom between Forebay's processes: mutual TLS with certificates that name roles, or plain text.

    unix:/path           always plain: the file's permissions are the guard
    host:port, no        plain: local mode, on loopback
      identity
    host:port, identity  mutual TLS: the client checks the server's name, ``Guard`` the client's

Knows gRPC and the standard library only: every process uses it, whatever else it has.
"""

from forebay_channel.dial import Unreachable, addresses, connected, open_channel
from forebay_channel.expiry import expiry
from forebay_channel.guard import Guard
from forebay_channel.identity import Identity, InvalidIdentity, Role
from forebay_channel.port import add_port
from forebay_channel.refusal import refuse

__all__ = [
    "Guard",
    "Identity",
    "InvalidIdentity",
    "Role",
    "Unreachable",
    "add_port",
    "addresses",
    "connected",
    "expiry",
    "open_channel",
    "refuse",
]
