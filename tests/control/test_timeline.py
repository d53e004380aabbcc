"""Cold starts that are over for who waited: how many, and where the seconds of the last one went."""

from __future__ import annotations

from typing import Any, cast

import pytest

from control.actors import checkpoint
from deciding.values import worker as worker_seen
from forebay_api.function import FunctionKey
from forebay_api.model import Epoch, Stage
from forebay_operator import wire
from forebay_operator.fleet import Attached
from forebay_operator.timeline import ColdStart, ColdStarts, Timeline
from forebay_wire.v1 import demand_pb2, fleet_pb2, model_pb2

A = FunctionKey("default", "a")
MODEL = checkpoint("aaaa", "file:///m/a")
WHOLE = (Stage("w0", 0, 7),)


class Rig:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self.planned(100.0, 100.5)

    def planned(self, queued: float, planned: float) -> None:
        self.start = ColdStart(A, wire.model(MODEL), Epoch(1, 1), WHOLE, None, queued, planned)
        self.timeline._starts.append(self.start)

    def landed(self, at: float) -> None:
        """A worker says that it has all units, the last one since ``at``."""
        us = int(at * 1e6)
        units = [
            fleet_pb2.UnitState(unit=unit, phase=fleet_pb2.UnitState.RESIDENT, asked_unix_us=us, landed_unix_us=us)
            for unit in range(8)
        ]
        report = fleet_pb2.WorkerReport(
            name="w0", holdings=[fleet_pb2.Holding(model=model_pb2.ModelRef(backbone="aaaa"), units=units)]
        )
        worker = Attached(report, worker_seen("w0"), at, cast("Any", None))  # nobody looks at its stream
        self.timeline.observe({"w0": worker}, (), at)

    def token(self, at: float) -> None:
        self.timeline.first_token(
            demand_pb2.FirstToken(namespace="default", name="a", first_token_unix_us=int(at * 1e6))
        )


@pytest.mark.parametrize("token_first", [True, False])
def test_over_with_the_first_token_whichever_is_told_first(token_first: bool) -> None:
    rig = Rig()
    steps = [lambda: rig.landed(103.5), lambda: rig.token(104.0)]
    for step in reversed(steps) if token_first else steps:
        assert rig.timeline.ended == {}
        step()
    assert rig.timeline.ended == {A: ColdStarts(1, 104.0, 0.5, 3.0, 0.5)}
    assert rig.timeline.ended[A].seconds == 4.0


def test_each_is_counted_once_and_the_last_one_kept() -> None:
    rig = Rig()
    rig.landed(103.5)
    for at in (104.0, 105.0):  # of a second request that waited, too
        rig.token(at)
    rig.landed(103.5)
    assert (rig.timeline.ended[A].count, rig.timeline.ended[A].at) == (1, 104.0)
    rig.planned(200.0, 200.0)
    rig.landed(201.0)
    rig.token(201.25)
    assert rig.timeline.ended[A] == ColdStarts(2, 201.25, 0.0, 1.0, 0.25)


def test_a_token_before_all_has_landed_ends_the_loading() -> None:
    """Clocks of two machines differ a little."""
    rig = Rig()
    rig.token(103.0)
    rig.landed(103.01)
    assert rig.timeline.ended[A] == ColdStarts(1, 103.0, 0.5, 2.5, 0.0)


def test_a_function_that_is_gone_is_forgotten() -> None:
    rig = Rig()
    rig.landed(103.5)
    rig.token(104.0)
    rig.timeline.keep(())
    assert rig.timeline.ended == {}
