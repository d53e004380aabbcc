"""s3://: a prefix of a bucket, by whatever speaks S3.

Credentials come with the request, else from the worker's environment (``AWS_*``, web identity, container); with neither
the bucket is read as the public reads it. A machine's own role is used only when ``AWS_EC2_METADATA_DISABLED=false``
says so: where there is none, asking for it takes seconds. ``AWS_ENDPOINT_URL`` may be plain http.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from obstore.store import S3Store

from forebay_worker.artifact import endpoints
from forebay_worker.artifact.access import Access, Secret
from forebay_worker.artifact.errors import ARTIFACT_NOT_FOUND, UNAUTHORIZED, CheckpointError
from forebay_worker.artifact.listing import SMALL_BYTES, SUMS, File, Listing, read_sums, select
from forebay_worker.artifact.remote import Chunk
from forebay_worker.artifact.store import RETRY, Store, client_options
from forebay_worker.artifact.uri import Uri

AMBIENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
NAMES = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
SUMS_BYTES = 1 << 20


class Objects:
    """One prefix."""

    def __init__(self, uri: Uri, access: Access, environ: Mapping[str, str] = os.environ) -> None:
        self._uri = uri
        self.identity = endpoints.identity(uri, environ)
        address = endpoints.s3(environ)
        config: Any = {  # obstore's type lists a hundred keys
            "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        }
        if address:
            config["endpoint"] = address
        if access.credentials:
            config |= read_credentials(uri.identity, access.credentials)
        elif not any(environ.get(name) for name in AMBIENT) and environ.get("AWS_EC2_METADATA_DISABLED") != "false":
            config["skip_signature"] = True
        options = client_options(address, {}, environ)
        self._store = Store(
            uri.identity,
            S3Store(uri.place, prefix=uri.path or None, config=config, client_options=options, retry_config=RETRY),
        )

    def resolve(self) -> Listing:
        found = {entry.name: entry for entry in self._store.list()}
        if not found:
            raise CheckpointError(ARTIFACT_NOT_FOUND, f"{self._uri.identity}: no objects there")
        sums = {}
        if SUMS in found:
            sums = read_sums(bytes(self._store.whole(SUMS, SUMS_BYTES)).decode(errors="replace"))
        files = [File(entry.name, entry.size, sums.get(entry.name, ""), "", entry.tag) for entry in found.values()]
        return select(self.identity, files)

    def read(self, file: File, begin: int, end: int) -> Chunk:
        return self._store.read(file.name, begin, end, file.tag)

    def whole(self, file: File) -> Chunk:
        return self._store.whole(file.name, SMALL_BYTES, file.tag)


def read_credentials(identity: str, secret: Secret) -> dict[str, str]:
    """A secret's text: a credentials file as the AWS tools write it (of several profiles the first), or
    KEY_ID:SECRET[:SESSION_TOKEN]. Raises CheckpointError, without the text."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"^\s*(\w+)\s*=\s*(\S+)\s*$", secret.value, re.MULTILINE):
        if name.lower() in NAMES:
            found.setdefault(NAMES[name.lower()], value)
    if not found:
        found = dict(zip(NAMES.values(), secret.value.strip().split(":", 2), strict=False))
    if not found.get("access_key_id") or not found.get("secret_access_key"):
        raise CheckpointError(
            UNAUTHORIZED,
            f"{identity}: the secret holds no S3 credentials: must be KEY_ID:SECRET, or a file with aws_access_key_id "
            "and aws_secret_access_key",
        )
    return found
