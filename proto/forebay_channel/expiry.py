"""Until when an identity is good. Reads just so much of X.509: not every process has a library for it."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from forebay_channel.identity import Files, InvalidIdentity

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

VERSION = 0xA0
"""The tag of a field that may be missing."""

VALIDITY = 3
"""The place of the field without it, behind serial number, algorithm and issuer."""

UTC_TIME = 0x17
"""The tag of times with years of two digits."""


def expiry(files: Files) -> float:
    """Unix seconds at which the certificate ends, or the last of the authorities that are trusted: what comes first.

    Raises InvalidIdentity."""
    return min(_ends("tls.crt", files.certificate)[0], max(_ends("ca.crt", files.authority)))


def _ends(name: str, pem: bytes) -> list[float]:
    """Of the certificates there; at least one. Raises InvalidIdentity."""
    try:
        found = [_not_after(binascii.a2b_base64(text)) for text in PEM.findall(pem)]
    except (ValueError, IndexError) as error:
        raise InvalidIdentity(f"{name} cannot be read: expected X.509 in PEM") from error
    if not found:
        raise InvalidIdentity(f"{name} has no certificate: expected X.509 in PEM")
    return found


def _not_after(certificate: bytes) -> float:
    """Raises ValueError, IndexError."""
    _, signed = _first(certificate)
    _, fields = _first(signed)
    validity = [content for tag, content in _elements(fields) if tag != VERSION][VALIDITY]
    tag, text = list(_elements(validity))[1]
    written = text.decode("ascii")
    if tag == UTC_TIME:
        written = f"{'20' if written < '50' else '19'}{written}"
    return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _first(content: bytes) -> tuple[int, bytes]:
    """Raises ValueError, IndexError."""
    for element in _elements(content):
        return element
    raise ValueError("nothing there")


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of what stands there in DER. Raises ValueError, IndexError."""
    place = 0
    while place < len(content):
        tag, size = content[place], content[place + 1]
        place += 2
        if size & 0x80:  # then it says how many bytes the size has
            width = size & 0x7F
            size = int.from_bytes(content[place : place + width], "big")
            place += width
        if place + size > len(content):
            raise ValueError("cut off")
        yield tag, content[place : place + size]
        place += size
