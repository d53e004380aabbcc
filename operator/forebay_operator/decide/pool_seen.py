"""What a decision about worker pools may know: pools, nodes, pods and claims as the API server last showed them, and
how much each worker does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Taint:
    """``effect``: NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    effect: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """An empty ``key`` stands for every key, an empty ``effect`` for every effect. ``operator``: Exists or Equal."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """``template``: hash that its pods should carry; ``cache``: each node needs a claim before its pods."""

    name: str
    uid: str
    selector: Mapping[str, str]
    gpus_per_node: int
    resource: str
    template: str
    max_unavailable: int = 1
    cache: bool = True
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """``allocatable``: devices by resource name, those in use included. It falls when a device turns sick, and to zero
    for a moment when the kubelet or the device plugin restarts."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    cordoned: bool = False
    allocatable: Mapping[str, int] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True)
class PodSeen:
    """``owner``: uid of its controller; ``node``: where it must run; ``resources``: names of what it takes there;
    ``bound``: the scheduler gave it to that node; ``created``: unix seconds; ``since``: those from which on it is
    ready, or is not; ``grace``: seconds that its worker has to hand over once it is told to end; ``dead``: it ended for
    good and its name is all that is left; ``leaving``: told to end, which should be done ``by`` (unix seconds);
    ``sick``: its device is reported unhealthy; ``trouble``: (reason, message) of what keeps it from running."""

    name: str
    uid: str
    owner: str
    node: str
    resources: frozenset[str]
    template: str
    bound: bool = True
    created: float = 0.0
    ready: bool = False
    since: float = 0.0
    grace: float = 0.0
    dead: bool = False
    leaving: bool = False
    by: float = 0.0
    sick: bool = False
    restarts: int = 0
    trouble: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """``owner``: uid of its controller, empty for one that a person made."""

    name: str
    owner: str = ""
    leaving: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Load:
    """What an attached worker would have to hand over: pipelines it is part of, bytes of their KV, bytes of weights."""

    pipelines: int = 0
    kv: int = 0
    weights: int = 0


@dataclass(frozen=True, slots=True)
class Death:
    """The last death of a pod of this name. ``quick``: how often in a row it came soon; ``at``: unix seconds."""

    uid: str
    quick: int
    at: float


@dataclass(frozen=True, slots=True)
class PoolsSeen:
    """``loads``: by worker, of those attached; a worker is called as its pod. ``began``: unix seconds since when this
    operator lets workers attach."""

    pools: tuple[PoolSeen, ...]
    nodes: tuple[NodeSeen, ...]
    pods: tuple[PodSeen, ...] = ()
    claims: tuple[ClaimSeen, ...] = ()
    loads: Mapping[str, Load] = field(default_factory=dict)
    deaths: Mapping[str, Death] = field(default_factory=dict)
    began: float = 0.0
