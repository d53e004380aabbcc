"""What tests of the simulator share: its package, which lies beside the benches, and a fleet made by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))
sys.path.append(str(Path(__file__).parents[2] / "e2e" / "bench"))

from sim.fleet import Fleet
from sim.hardware import Hardware
from sim.models import Kind, made
from sim.policies import Policy
from sim.traces import Asked, Load

from forebay_api.function import Scaling
from forebay_operator.decide.seen import Costs

KIND = Kind(
    made("b", layers=10, layer_bytes=100, head_bytes=100),
    # One token takes a layer 1 ms, and n of them n times as long.
    Costs(layer=((1, 0.001), (1000, 1.0)), head=((1, 0.0),), hop=0.0),
    budget=100,
)


@pytest.fixture
def kind() -> Kind:
    """Ten layers of 100 bytes; a step of n tokens takes n × 10 ms."""
    return KIND


@pytest.fixture
def fleet() -> Callable[..., Fleet]:
    """``fleet(policy, [requests of one function], …)``: devices whose links give 100 bytes a second."""

    def make(
        policy: Policy,
        *functions: Sequence[Asked],
        gpus: int = 4,
        link: float = 100.0,
        horizon: float = 1000.0,
        target: float = 16.0,
        kind: Kind = KIND,
        **more: object,
    ) -> Fleet:
        hardware = Hardware(gpus=gpus, per_node=gpus, link=link, bucket=0, memory=10**9, start=0.0, **more)  # type: ignore[arg-type]
        loads = [Load(f"f{i}", "", str(i), recorded=tuple(asked)) for i, asked in enumerate(functions)]
        return Fleet(hardware, loads, policy, horizon, lambda _: kind, Scaling(max_replicas=16, target=target))

    return make
