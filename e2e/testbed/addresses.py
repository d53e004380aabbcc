"""Addresses and names inside a cluster. They exist only in its own network namespaces: two clusters never collide."""

from __future__ import annotations

CONTROL = "10.90.0.1"
"""The control place's: API server, DNS, and the tests, on the bridge `br0`."""
PODS = "10.90.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
API = f"https://{CONTROL}:6443"
DOMAIN = "cluster.local"
API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")


def node(index: int) -> str:
    """Address of node ``index``, counted from 1."""
    return f"10.90.0.{10 + index}"


def pods_of(index: int) -> str:
    """The network of the pods of node ``index``."""
    return f"10.90.{index}.0/24"
