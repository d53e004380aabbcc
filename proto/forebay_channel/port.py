"""The server's side: a port that takes certificates of our authority only, and follows renewed files."""

from __future__ import annotations

import logging

import grpc

from forebay_channel.identity import Files, Identity, InvalidIdentity

log = logging.getLogger(__name__)


def add_port(server: grpc.aio.Server, address: str, identity: Identity | None) -> int:
    """Have ``server`` listen on ``unix:/path`` or ``host:port``; the port (that which was found for port 0).

    Raises RuntimeError when the address cannot be had, InvalidIdentity.
    """
    if identity is None or address.startswith("unix:"):
        return server.add_insecure_port(address)
    followed = _Followed(identity)
    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(followed.files),
        followed.renewed,  # type: ignore[arg-type]  # the stubs forget None, which the function's own text has
        require_client_authentication=True,
    )
    return server.add_secure_port(address, credentials)


class _Followed:
    """The files of an identity, looked at before every handshake. Called on gRPC's own threads."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.files = identity.read()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What to show from now on; None = what was shown before. Files that cannot be read leave it so."""
        try:
            if self._identity.state() == self.files.state:
                return None
            self.files = self._identity.read()
        except (OSError, InvalidIdentity) as error:
            log.warning("certificates cannot be read: those read before stay in use: %s", error)
            return None
        return _configuration(self.files)


def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.authority)
