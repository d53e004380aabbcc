"""What a process shows to others: a folder with its certificate, its key and the authority that all of them trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CERTIFICATE = "tls.crt"
KEY = "tls.key"
AUTHORITY = "ca.crt"

TLS = "FOREBAY_TLS"
RELEASE = "FOREBAY_RELEASE"


class Role(StrEnum):
    """What a certificate says its holder is."""

    OPERATOR = "operator"
    GATEWAY = "gateway"
    WORKER = "worker"


class InvalidIdentity(Exception):
    """The variables or the files make no identity. The text names which, and what would be right."""


@dataclass(frozen=True, slots=True)
class Files:
    """The contents, all PEM. ``state`` changes whenever one of the files does."""

    certificate: bytes
    key: bytes
    authority: bytes
    state: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Identity:
    """``folder`` holds ``tls.crt``, ``tls.key`` and ``ca.crt``, laid out as in a mounted Secret; ``release`` is the
    installation that the certificates are for."""

    folder: Path
    release: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Identity | None:
        """From ``FOREBAY_TLS`` and ``FOREBAY_RELEASE``; None without the first: plain text. Raises InvalidIdentity."""
        folder = environ.get(TLS)
        if not folder:
            return None
        release = environ.get(RELEASE)
        if not release:
            raise InvalidIdentity(f"{RELEASE} is empty, and {TLS}={folder!r} is set: expected the release's name")
        return cls(Path(folder).absolute(), release)

    def name(self, role: Role) -> str:
        """The DNS name that stands in the certificates of a role."""
        return f"{role}.{self.release}"

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Differs after a file was written or replaced. Raises OSError."""
        found = [(self.folder / name).stat() for name in (CERTIFICATE, KEY, AUTHORITY)]
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def read(self) -> Files:
        """What the files hold now. Raises InvalidIdentity."""
        try:
            # Looked at before it is read: a change in between shows the next time.
            state = self.state()
            certificate, key, authority = ((self.folder / name).read_bytes() for name in (CERTIFICATE, KEY, AUTHORITY))
        except OSError as error:
            raise InvalidIdentity(
                f"{TLS}={str(self.folder)!r}: expected {CERTIFICATE}, {KEY} and {AUTHORITY} there: "
                f"{error.filename}: {error.strerror}"
            ) from error
        return Files(certificate, key, authority, state)
