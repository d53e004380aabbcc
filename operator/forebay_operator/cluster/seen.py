"""What the watches last showed of the cluster, as values that decisions may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Body = Mapping[str, Any]
"""An object as the API server gives it."""


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """Bodies by name. Pools, pods (of workers) and claims are those of the operator's namespace.

    It is what was last seen: while the API server is away nothing of it vanishes."""

    pools: Mapping[str, Body] = field(default_factory=dict)
    nodes: Mapping[str, Body] = field(default_factory=dict)
    pods: Mapping[str, Body] = field(default_factory=dict)
    claims: Mapping[str, Body] = field(default_factory=dict)
