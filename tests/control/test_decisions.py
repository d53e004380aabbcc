"""What is remembered of decisions: what counts as another one, who paid, for how long, and the gauges beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from control.actors import until
from control.conftest import System
from control.operators import function
from deciding.values import snapshot
from forebay_api.conditions import Condition, ConditionType, Reason, State, Status
from forebay_api.function import FunctionKey
from forebay_operator.decide.decision import Input, Limit, Scale, Why
from forebay_operator.decide.load import Memory, Source
from forebay_operator.decide.plan import Plan
from forebay_operator.decide.pressure import Payment
from forebay_operator.decide.seen import FunctionSeen, Snapshot
from forebay_operator.decisions import KEPT, Decision, Decisions
from forebay_operator.status import FunctionStatus

NAMES = ("a", "b", "c", "d")
A, B, C, D = (FunctionKey("default", name) for name in NAMES)
SCALE = Scale(1, Why.REQUESTS, "1 replica: 3 requests", inputs=(Input("requests", 3.0, 9.0, Source.GATEWAYS),))


def seen(*names: str, uid: str = "") -> Snapshot:
    """Functions of backbones called as they are, but for d, which has that of c."""
    found = []
    for name in names:
        one = function(name, f"file:///m/{name}")
        found.append(FunctionSeen(replace(one, uid=uid or one.uid), backbone="c" if name == "d" else name))
    return replace(snapshot([], []), functions=tuple(found))


def status(ready: int = 0, *, blind: bool = False) -> FunctionStatus:
    active = Condition(ConditionType.SCALING_ACTIVE, Status.FALSE if blind else Status.TRUE, Reason.SCALING)
    return FunctionStatus(State.IDLE, "", "", ready, 0, "", (active,), None)


class Rig:
    def __init__(self) -> None:
        self.decisions = Decisions()
        self.now = 10.0

    def turn(
        self,
        scale: Scale = SCALE,
        payments: Sequence[Payment] = (),
        *,
        of: Snapshot | None = None,
        said: FunctionStatus | None = None,
    ) -> Decision:
        """A pass in which each function scales so; the present decision of the first one."""
        self.now += 1.0
        of = of or seen("a")
        keys = [one.function.key for one in of.functions]
        plan = Plan((), dict.fromkeys(keys, scale), payments=tuple(payments))
        return self.decisions.take(plan, of, dict.fromkeys(keys, said or status()), self.now)[keys[0]]

    def kept(self, key: FunctionKey = A) -> list[Decision]:
        return self.decisions.newest_first(key)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.decisions.keep(())


def gauge(name: str, key: FunctionKey = A) -> float | None:
    return REGISTRY.get_sample_value(f"forebay_{name}", {"function": str(key)})


def test_only_another_decision_reason_or_limit_is_remembered(rig: Rig) -> None:
    rig.turn()
    rig.turn(SCALE._replace(message="1 replica: 4 requests", inputs=(), load=0.3))
    assert [decision.at for decision in rig.kept()] == [11.0]
    for other in (SCALE._replace(desired=2), SCALE._replace(reason=Why.MEAN), SCALE._replace(limit=Limit.MAX)):
        rig.turn(other)
    assert [decision.gist for decision in rig.kept()] == [
        (1, "Requests", "maxReplicas"),
        (1, "Mean", ""),
        (2, "Requests", ""),
        (1, "Requests", ""),
    ]


def test_the_present_one_has_what_is_measured_now(rig: Rig) -> None:
    rig.turn(said=status(ready=1))
    newer = (Input("requests", 4.0, 12.0, Source.PROMETHEUS), Input("damaged", float("nan"), 12.0, Source.PROMETHEUS))
    present = rig.turn(SCALE._replace(message="1 replica: 4 requests", inputs=newer), said=status(ready=1))
    assert (present.at, present.current, present.message) == (12.0, 1, "1 replica: 4 requests")
    assert present.inputs == newer[:1]  # what is no number says nothing


def test_the_last_ones_are_remembered(rig: Rig) -> None:
    for number in range(2 * KEPT):
        rig.turn(SCALE._replace(desired=number))
    assert [decision.desired for decision in rig.kept()] == list(reversed(range(KEPT, 2 * KEPT)))


def test_who_paid_is_remembered_once_on_both_sides(rig: Rig) -> None:
    fleet = seen(*NAMES)
    rig.turn(of=fleet)
    payment = Payment("c", "a", ("w1", "w2"), "idle for 40 s")
    for _ in range(3):  # until the drop is on its way
        rig.turn(payments=[payment], of=fleet)
    rig.turn(of=fleet)
    assert [len(rig.kept(key)) for key in (A, B, C, D)] == [2, 1, 2, 2]
    assert rig.kept(A)[0].received == ("got w1, w2 of default/c and default/d: idle for 40 s",)
    assert rig.kept(C)[0].paid == rig.kept(D)[0].paid == ("gave w1, w2 up for default/a: idle for 40 s",)
    rig.turn(payments=[payment], of=fleet)  # the same again, later
    assert len(rig.kept(A)) == 3


def test_a_payer_that_is_gone_has_no_name(rig: Rig) -> None:
    rig.turn(payments=[Payment("x", "a", ("w1",), "nobody needs it")])
    assert rig.kept()[0].received == ("got w1 of a function that is gone: nobody needs it",)


def test_many_functions_of_one_backbone_are_not_all_named(rig: Rig) -> None:
    many = [replace(one, backbone="c") for one in seen("c", "d", "e", "f", "g").functions]
    fleet = replace(seen("a"), functions=(*seen("a").functions, *many))
    rig.turn(payments=[Payment("c", "a", ("w1",), "idle")], of=fleet)
    assert rig.kept()[0].received == ("got w1 of default/c and default/d and default/e and 2 more: idle",)


def test_a_function_that_is_gone_is_forgotten_with_its_gauges(rig: Rig) -> None:
    rig.turn(of=seen("a", "b"))
    assert gauge("desired_replicas", B) == 1.0
    rig.decisions.keep({A})
    assert (rig.kept(B), gauge("desired_replicas", B)) == ([], None)
    assert (len(rig.kept(A)), gauge("desired_replicas", A)) == (1, 1.0)


def test_made_anew_under_its_name_it_is_another(rig: Rig) -> None:
    rig.turn(SCALE._replace(desired=3))
    rig.turn(of=seen("a", uid="later"))
    assert [decision.desired for decision in rig.kept()] == [1]


def test_gauges_follow(rig: Rig) -> None:
    names = ("desired_replicas", "ready_replicas", "panic_mode", "scaling_blind")
    rig.turn(SCALE._replace(desired=3), said=status(2))
    assert [gauge(name) for name in names] == [3.0, 2.0, 0.0, 0.0]
    rig.turn(SCALE._replace(memory=Memory(panic_until=rig.now + 60.0)), said=status(3, blind=True))
    assert [gauge(name) for name in names] == [1.0, 3.0, 1.0, 1.0]
    rig.turn(SCALE._replace(memory=Memory(panic_until=rig.now)), said=status(1))
    assert [gauge(name) for name in names] == [1.0, 1.0, 0.0, 0.0]


async def test_an_operator_that_acts_no_more_shows_no_numbers(system: System) -> None:
    await system.start(function("a", "file:///m/a"))
    await until(lambda: gauge("desired_replicas") == 0.0)
    await system.operator.stop()
    assert gauge("desired_replicas") is None


async def test_a_running_operator_remembers_what_it_decided(system: System) -> None:
    await system.start(function("a", "file:///m/a", replicas=0))
    system.source.apply(function("a", "file:///m/a", generation=2, replicas=1))
    await until(lambda: system.routes())
    scaling = (await system.seen("a"))["scaling"]
    assert (scaling["desired"], scaling["reason"]) == (1, "Pinned")
    assert [(one["desired"], one["reason"]) for one in scaling["decisions"]][:2] == [(1, "Pinned"), (0, "Pinned")]
    system.source.apply()
    await until(lambda: gauge("desired_replicas") is None)


async def test_a_running_operator_says_who_paid_for_whom(system: System) -> None:
    kept = {"scaling": {"scaleToZeroGracePeriodSeconds": 600, "maxReplicas": 1}}
    functions = (function("a", "file:///m/a", **kept), function("b", "file:///m/b", **kept))
    await system.start(*functions, workers=1, memory_bytes=9 << 20)
    system.gateway.ask("a", waiting=1)
    await until(lambda: system.routes("aaaa"))
    system.gateway.ask("a", ended=True)
    system.gateway.ask("b", waiting=1)
    await until(lambda: system.routes("bbbb"))

    async def told(name: str, what: str) -> list[str]:
        decisions = (await system.seen(name))["scaling"]["decisions"]
        return [sentence for decision in decisions for sentence in decision[what]]

    (paid,), (received,) = await told("a", "paid"), await told("b", "received")
    assert paid.startswith("gave w0 up for default/b: ")
    assert received.startswith("got w0 of default/a: ")
    assert await told("a", "received") == await told("b", "paid") == []
