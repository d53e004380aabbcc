"""What scaling is told and leaves behind between passes, who else may decide, and what is said of a blind one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from control.actors import until
from control.conftest import System
from control.operators import Loaded, function
from forebay_api.conditions import ConditionType
from forebay_api.function import Function, FunctionKey
from forebay_operator.decide.load import Load, Measured
from forebay_operator.parts import TIMING, Parts, assemble
from forebay_operator.status import Urls
from forebay_operator.term import Term

KEY = FunctionKey("default", "a")
EXTERNAL = {"scaling": {"mode": "External", "scaleToZeroGracePeriodSeconds": 0, "maxReplicas": 2}}
KNOWN = Measured(Load(3.0, 3.0, 60.0, 1000.0))


@dataclass
class Said:
    """What Prometheus says, as a test says."""

    measured: Measured | None = None
    asked: list[FunctionKey] = field(default_factory=list)

    def seen(self, key: FunctionKey, now: float) -> Measured | None:
        self.asked.append(key)
        return self.measured


async def parts(folder: Path, said: Said | None, *functions: Function) -> Parts:
    async def source() -> AsyncIterator[Loaded]:
        yield Loaded({function.key: function for function in functions})

    made = assemble(Term(folder / "term"), Urls("http://gateway", ""), TIMING, measurements=said)
    await made.functions.follow(source())
    return made


def condition(made: Parts, kind: ConditionType = ConditionType.SCALING_ACTIVE) -> tuple[str, str]:
    made.control.turn()
    found = next(entry for entry in made.control.outcome.statuses[KEY].conditions if entry.type is kind)
    return found.status.value, found.reason


def heard(made: Parts) -> None:
    """As if a gateway reported: else it is missing, and that is what blinds."""
    made.demand._greet("gateway", time.time())


class TestMeasurements:
    async def test_are_asked_for_each_function_in_each_pass(self, tmp_path: Path) -> None:
        said = Said(KNOWN)
        made = await parts(tmp_path, said, function("a", "file:///m/a"), function("b", "file:///m/b"))
        made.control.turn()
        assert [one.measured for one in made.control.outcome.seen.functions] == [KNOWN, KNOWN]
        assert said.asked[-2:] == [KEY, FunctionKey("default", "b")]

    async def test_nobody_is_blind_where_none_are_configured(self, tmp_path: Path) -> None:
        made = await parts(tmp_path, None, function("a", "file:///m/a"))
        heard(made)
        assert condition(made) == ("True", "Scaling")

    async def test_their_trouble_is_said_and_that_it_is_over(self, tmp_path: Path) -> None:
        said = Said(Measured(None, ("StaleSamples", "the newest sample is 90 s old")))
        made = await parts(tmp_path, said, function("a", "file:///m/a"))
        assert condition(made) == ("False", "MetricsUnavailable")
        heard(made)
        assert condition(made) == ("False", "StaleSamples")
        said.measured = KNOWN
        assert condition(made) == ("True", "Scaling")

    async def test_who_pins_needs_none(self, tmp_path: Path) -> None:
        said = Said(Measured(None, ("StaleSamples", "")))
        assert condition(await parts(tmp_path, said, function("a", "file:///m/a", replicas=1))) == ("True", "Pinned")
        other = await parts(tmp_path, said, function("a", "file:///m/a", replicas=1, **EXTERNAL))
        assert condition(other) == ("True", "External")


class TestMemory:
    async def test_a_pass_hears_of_the_one_before(self, tmp_path: Path) -> None:
        made = await parts(tmp_path, None, function("a", "file:///m/a", scaling={"minReplicas": 2}))
        made.control.turn()
        made.control.turn()
        assert [one.memory.last for one in made.control.outcome.seen.functions] == [2]

    async def test_is_forgotten_with_the_function(self, tmp_path: Path) -> None:
        made = await parts(tmp_path, None, function("a", "file:///m/a", scaling={"minReplicas": 2}))
        made.control.turn()

        async def nothing() -> AsyncIterator[Loaded]:
            yield Loaded({})

        await made.functions.follow(nothing())
        made.control.turn()
        assert not made.control.observer._memories


class TestExternal:
    async def test_zero_is_not_off_and_a_held_request_brings_one(self, system: System) -> None:
        await system.start(function("a", "file:///m/a", replicas=0, **EXTERNAL))
        seen = await system.seen("a")
        assert (seen["state"], seen["reason"], seen["desired"]) == ("Idle", "Ready", 0)
        assert not system.gateway.route("a").refusal_reason
        conditions = {condition["type"]: condition for condition in seen["conditions"]}
        assert (conditions["ScalingActive"]["status"], conditions["ScalingActive"]["reason"]) == ("True", "External")
        system.gateway.ask("a", waiting=1)
        await until(lambda: [route.stages for route in system.routes()] == [1])
        seen = await system.seen("a")
        assert (seen["desired"], seen["ready"]) == (1, 1)
        system.gateway.ask("a", ended=True)
        await until(lambda: not system.routes())
        await until(lambda: not any(worker.holds for worker in system.workers.values()))

    async def test_what_it_asks_for_is_had(self, system: System) -> None:
        await system.start(function("a", "file:///m/a", replicas=2, **EXTERNAL))
        await until(lambda: [route.stages for route in system.routes()] == [1, 1])
        system.source.apply(function("a", "file:///m/a", generation=2, replicas=1, **EXTERNAL))
        await until(lambda: len(system.routes()) == 1)
        system.source.apply(function("a", "file:///m/a", generation=3, replicas=0, **EXTERNAL))
        await until(lambda: not system.routes())
        assert not system.gateway.route("a").refusal_reason
