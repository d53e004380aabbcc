"""Where sources are spoken to, as the worker's environment says. Only here can plain http be chosen."""

from __future__ import annotations

from collections.abc import Mapping

from forebay_worker.artifact.uri import Scheme, Uri

HUB = "https://huggingface.co"


def hub(environ: Mapping[str, str]) -> str:
    return (environ.get("FOREBAY_HF_ENDPOINT") or environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def s3(environ: Mapping[str, str]) -> str:
    """Empty: that of AWS for the region."""
    return (environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")


def identity(uri: Uri, environ: Mapping[str, str]) -> str:
    """Buckets of one name differ from endpoint to endpoint; a commit of the hub is the same on every mirror."""
    address = s3(environ) if uri.scheme is Scheme.S3 else ""
    return f"{uri.identity} at {address}" if address else uri.identity
