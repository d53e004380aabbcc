"""A node's fake GPUs: what they are called, how the node is labelled, and making them ill and well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.shell import Failed

if TYPE_CHECKING:
    from testbed.node import Node

RESOURCE = "nvidia.com/gpu"
PROGRAM = Path(__file__).with_name("device_plugin.py")
PRODUCT = "FAKE-GPU"
MEMORY_MIB = 16384


def labels(devices: int) -> list[str]:
    """Those that GPU feature discovery would set."""
    found = {"product": PRODUCT, "count": devices, "memory": MEMORY_MIB}
    return [f"{RESOURCE}.{name}={value}" for name, value in found.items()] if devices else []


def start(node: Node, devices: int) -> None:
    prefix = _prefix(node)
    arguments = ("--count", devices, "--prefix", prefix, "--ill", _ill(node), "--resource", RESOURCE)
    node.start(f"{node.name}/gpus", sys.executable, PROGRAM, *arguments)


def set_health(node: Node, device: int, *, healthy: bool) -> str:
    """Make device number ``device`` (from 0) ill or well; the kubelet knows after about a second. Its name."""
    if not 0 <= device < node.devices:
        raise Failed(f"device {device}: {node.name} has 0 to {node.devices - 1}")
    name, file = f"{_prefix(node)}-{device}", _ill(node)
    ill = set(file.read_text().split()) if file.exists() else set()
    changed = ill - {name} if healthy else ill | {name}
    part = file.with_suffix(".part")
    part.write_text("\n".join(sorted(changed)))
    part.rename(file)
    return name


def _prefix(node: Node) -> str:
    return f"GPU-{node.name}"


def _ill(node: Node) -> Path:
    return node.state / "ill-gpus"
