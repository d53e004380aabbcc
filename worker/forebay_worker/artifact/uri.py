"""Model uris, parsed strictly: what is accepted here is safe as a path, in a request and in a log.

    file:///absolute/folder     hf://org/name[:revision]     s3://bucket[/prefix]     https://host[:port]/folder/

Plain http is not a uri's to choose: only whoever runs the workers may allow it, by naming an endpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

LONGEST = 1024

REPO_PART = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9](?:[A-Za-z0-9._/+-]{0,198}[A-Za-z0-9_+])?")
BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
HOST = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?::[1-9][0-9]{0,4})?",
    re.IGNORECASE,
)
SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~!$&'()+,;=@%:-]+")


class InvalidUri(ValueError):
    """One sentence that says what is wrong and what would be right. Never repeats what may be a password."""


class Scheme(StrEnum):
    FILE = "file"
    HF = "hf"
    S3 = "s3"
    HTTPS = "https"


@dataclass(frozen=True, slots=True)
class Uri:
    """``place`` is host, bucket or nothing; ``path`` a folder, prefix or repository without a slash at the end;
    ``revision`` only of the hub."""

    scheme: Scheme
    place: str
    path: str
    revision: str = ""

    @property
    def identity(self) -> str:
        """The source, whatever its state: equal for uris that name the same."""
        return f"{self.scheme}://{'/'.join(part for part in (self.place, self.path) if part)}"

    def __str__(self) -> str:
        return f"{self.identity}:{self.revision}" if self.revision else self.identity


def parse(text: str) -> Uri:
    """Raises InvalidUri."""
    if len(text) > LONGEST:
        raise InvalidUri(f"the model's uri has {len(text)} characters; at most {LONGEST}")
    scheme, divider, rest = text.partition("://")
    if not divider or scheme not in READERS or any(ord(letter) < 33 or ord(letter) == 127 for letter in text):
        if scheme == Scheme.FILE:
            return _file(text, rest)  # folders may have blanks in their names
        raise InvalidUri(
            "a model's uri can be only file:///absolute/path, hf://org/name[:revision], s3://bucket/prefix or "
            "https://host/folder/, without blanks"
        )
    return READERS[Scheme(scheme)](text, rest)


def _file(text: str, rest: str) -> Uri:
    path = unquote(rest)
    if not path.startswith("/") or "\0" in path:
        raise InvalidUri(f"{text!r}: only file:///absolute/path can be opened")
    return Uri(Scheme.FILE, "", path)


def _hub(text: str, rest: str) -> Uri:
    repository, colon, revision = re.split(r"([:@]|$)", rest, maxsplit=1)
    parts = repository.split("/")
    if len(parts) != 2 or not all(REPO_PART.fullmatch(part) for part in parts):
        raise InvalidUri(f"{text}: must be hf://org/name or hf://org/name:revision")
    if colon and not REVISION.fullmatch(revision):
        raise InvalidUri(f"{text}: the revision must be the name of a branch or tag, or a commit")
    return Uri(Scheme.HF, "", repository, revision)


def _bucket(text: str, rest: str) -> Uri:
    bucket, _, prefix = rest.partition("/")
    if not BUCKET.fullmatch(bucket):
        raise InvalidUri(
            f"{text}: must be s3://bucket/prefix, the bucket's name lower-case letters, digits, '-' and '.'"
        )
    return Uri(Scheme.S3, bucket, _segments(text, prefix))


def _web(text: str, rest: str) -> Uri:
    host, _, path = rest.partition("/")
    if "@" in host:
        raise InvalidUri("an https:// uri must not have a user or password in it: give them by credentials.secretRef")
    if "?" in rest or "#" in rest:
        raise InvalidUri("an https:// uri names a folder, without '?' and '#': give a token by credentials.secretRef")
    if not HOST.fullmatch(host):
        raise InvalidUri(f"{text}: must be https://host/folder/")
    return Uri(Scheme.HTTPS, host.lower(), _segments(text, path))


def _segments(text: str, path: str) -> str:
    path = path.removesuffix("/")
    if path and not all(SEGMENT.fullmatch(segment) and _plain(unquote(segment)) for segment in path.split("/")):
        raise InvalidUri(
            f"{text}: a path has parts of letters, digits and ._~!$&'()+,;=@%:- only, none empty, '.' or '..'"
        )
    return path


def _plain(segment: str) -> bool:
    """What a server may make of it is no other folder."""
    return segment not in (".", "..") and "/" not in segment


READERS = {Scheme.FILE: _file, Scheme.HF: _hub, Scheme.S3: _bucket, Scheme.HTTPS: _web}
