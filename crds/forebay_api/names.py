"""Names that more than one process, chart or person types: each is written here and nowhere else."""

from __future__ import annotations

GROUP = "forebay.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LLMFunction"
PLURAL = "llmfunctions"
SINGULAR = "llmfunction"
SHORT_NAME = "llmfn"
POOL_KIND = "WorkerPool"
POOL_PLURAL = "workerpools"
POOL_SINGULAR = "workerpool"
POOL_SHORT_NAME = "wpool"
CATEGORY = "forebay"
DEFAULT_POOL = "default"
DEFAULT_NAMESPACE = "default"

# A derived host label `<name>.<namespace>` and the children's suffixes must still fit the 63 characters of DNS.
NAME_LENGTH = 40
LABEL_LENGTH = 63

GATEWAY_PORT = 8080

RELEASE_LABEL = "forebay_release"
"""By which a Prometheus that scrapes several releases keeps their series apart; without one in local mode."""
