"""Where the API server is and who we are there: the pod's service account, or a person's kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import kopf
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)


class CannotLogIn(Exception):
    """Nothing says where the API server is, or what says it cannot be read. The text is for people."""


def in_pod(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a service account is mounted here and nobody named another way in."""
    return (
        not environ.get("KUBECONFIG")
        and bool(environ.get(SERVICE_HOST_ENV_NAME))
        and Path(SERVICE_TOKEN_FILENAME).exists()
    )


async def log_in(context: str | None, environ: Mapping[str, str] = os.environ) -> Configuration:
    """``context`` is one of the kubeconfig; None: the service account in a pod, else the kubeconfig's current one.

    Tokens are read anew while in use. Raises CannotLogIn."""
    found = Configuration()
    try:
        if context is None and in_pod(environ):
            loader = InClusterConfigLoader(SERVICE_TOKEN_FILENAME, SERVICE_CERT_FILENAME)  # type: ignore[no-untyped-call]
            loader.load_and_set(found)  # type: ignore[no-untyped-call]
        else:
            files = environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=files, context=context, client_configuration=found
            )
    except (ConfigException, OSError) as error:
        raise CannotLogIn(f"no way to the API server: {error}") from error
    return found


async def kopf_login(context: str | None) -> kopf.ConnectionInfo:
    """The same way in for kopf, which asks again when it is refused. Raises CannotLogIn."""
    found = await log_in(context)
    header = (await found.auth_settings()).get("BearerToken")
    scheme, _, token = str(header["value"] if header else "").partition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        ca_data=None if found.ssl_ca_cert else found.ca_cert_data,
        insecure=not found.verify_ssl,
        scheme=scheme.capitalize() or None,
        token=token or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )
