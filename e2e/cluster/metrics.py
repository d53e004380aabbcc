"""What a pod says of itself at its port for metrics."""

from __future__ import annotations

import urllib.request

from cluster.kube import Body
from testbed.shell import Failed

GATEWAY, OPERATOR = 8080, 9090
"""Ports."""


def of(pod: Body, port: int, name: str, **labels: str) -> dict[str, float]:
    """Values of the series of this name that have these labels, by name and labels as the pod writes them. Raises
    `Failed` where nobody answers."""
    url = f"http://{pod['status']['podIP']}:{port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        raise Failed(f"{pod['metadata']['name']}: {url}: {error}") from error
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    told = [line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} "))]
    return {series: float(value) for series, _, value in told if all(pair in series for pair in wanted)}
