"""What reports of gateways become: sums, means of each function's own windows, and what is known at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from control.actors import until
from forebay_api.function import FunctionKey, Scaling, ScalingMetric
from forebay_operator.demand import Demand
from forebay_operator.window import PIECES
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc

KEY = FunctionKey("default", "a")
TOKENS = Scaling(metric=ScalingMetric.TOKENS_PER_SECOND)


class Heard:
    """The operator's ear, with a clock that stands still until told."""

    def __init__(self, target: str) -> None:
        self.now = 1000.0
        self.woken = 0
        self.target = target
        self.demand = Demand(wake=self._wake, first_token=lambda _: None, clock=lambda: self.now, silence=60.0)

    def _wake(self, seconds: float) -> None:
        self.woken += 1

    @property
    def seen(self) -> tuple[float, float, float]:
        load = self.demand.seen(KEY, self.now).load
        return load.stable, load.panic, load.known


class Stream:
    """One gateway's, over a real channel."""

    def __init__(self, heard: Heard, name: str) -> None:
        self._heard, self._name = heard, name
        self._channel = grpc.aio.insecure_channel(heard.target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._call = demand_pb2_grpc.DemandStub(self._channel).Report()

    async def say(self, at: float, **told: int) -> None:
        """What it counts of the function at a time; nothing where it names no function."""
        self._heard.now = at
        functions = [demand_pb2.FunctionDemand(namespace=KEY.namespace, name=KEY.name, **told)] if told else []
        await self._call.write(demand_pb2.DemandReport(gateway=self._name, functions=functions))
        assert isinstance(await self._call.read(), demand_pb2.DemandAck)

    async def end(self) -> None:
        self._call.cancel()
        await self._channel.close()


@pytest.fixture
async def heard(tmp_path: Path) -> AsyncIterator[Heard]:
    heard, server = Heard(f"unix:{tmp_path}/d.sock"), grpc.aio.server()
    demand_pb2_grpc.add_DemandServicer_to_server(heard.demand, server)
    server.add_insecure_port(heard.target)
    await server.start()
    yield heard
    await server.stop(None)


async def test_requests_of_all_gateways_count_together(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    one, other = Stream(heard, "one"), Stream(heard, "other")
    await one.say(1000.0, waiting=2, in_flight=4)
    await other.say(1000.0, in_flight=3)
    assert heard.demand.connected() == 2
    heard.now = 1030.0
    assert heard.seen == (pytest.approx(9.0), pytest.approx(9.0), 30.0)
    await one.end()
    await other.end()


async def test_what_was_before_the_first_gateway_spoke_is_not_known(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    heard.now = 1040.0
    assert heard.seen[2] == 0.0
    one = Stream(heard, "one")
    await one.say(1040.0, in_flight=1)
    heard.now = 1045.0
    assert heard.seen == (pytest.approx(1.0), pytest.approx(1.0), 5.0)
    assert heard.demand.seen(KEY, 1045.0).load.sampled_at == 1040.0
    await one.end()


async def test_tokens_are_counted_from_totals_that_only_grow(heard: Heard) -> None:
    heard.demand.keep({KEY: TOKENS})
    one, other = Stream(heard, "one"), Stream(heard, "other")
    await one.say(1000.0, tokens=5000)  # of a time that we know nothing of
    await other.say(1000.0, tokens=0)
    for second in range(1, 61):
        await one.say(1000.0 + second, tokens=5000 + 20 * second)
        await other.say(1000.0 + second, tokens=10 * second)
    heard.now = 1060.5
    assert heard.seen == (pytest.approx(30.0, abs=30 / PIECES), pytest.approx(30.0, abs=30 / PIECES), 60.0)
    await other.end()
    began_anew = Stream(heard, "another process")
    await began_anew.say(1061.0, tokens=7)
    await one.say(1061.0, tokens=0)
    heard.now = 1061.5
    assert heard.seen[0] == pytest.approx(30.0 * 59 / 60, abs=30 / PIECES)
    for stream in (one, began_anew):
        await stream.end()


async def test_a_gateway_that_comes_back_goes_on_where_it_was(heard: Heard) -> None:
    heard.demand.keep({KEY: TOKENS, FunctionKey("default", "b"): Scaling()})
    one = Stream(heard, "one")
    await one.say(1000.0, tokens=100)
    again = Stream(heard, "one")
    await again.say(1006.0, tokens=160)
    assert heard.seen[1] == pytest.approx(10.0)
    heard.demand.keep({KEY: Scaling()})
    await again.say(1010.0, in_flight=6)
    last = Stream(heard, "one")
    await last.say(1016.0)
    heard.now = 1022.0
    assert heard.seen[1] == pytest.approx(0.0)
    for stream in (one, again, last):
        await stream.end()


async def test_totals_alone_wake_nobody(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    one = Stream(heard, "one")
    await one.say(1000.0, in_flight=1)
    before = heard.woken
    await one.say(1001.0, in_flight=1, tokens=50, requests=1)
    assert heard.woken == before
    await one.say(1002.0, in_flight=2, tokens=90, requests=1)
    assert heard.woken == before + 1
    await one.end()


async def test_another_window_or_metric_is_measured_anew(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    one = Stream(heard, "one")
    await one.say(1000.0, in_flight=4)
    heard.now = 1030.0
    heard.demand.keep({KEY: Scaling(max_replicas=9)})
    assert heard.seen[2] == 30.0
    heard.demand.keep({KEY: replace(Scaling(), window_seconds=600)})
    assert heard.seen == (4.0, 4.0, 0.0)
    heard.now = 1060.0
    assert heard.seen == (pytest.approx(4.0), pytest.approx(4.0), 30.0)
    await one.end()


async def test_a_lost_gateway_counts_for_a_while(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    one, other = Stream(heard, "one"), Stream(heard, "other")
    await one.say(1000.0, in_flight=4)
    await other.say(1000.0, in_flight=1)
    await other.end()
    await one.say(1000.5, in_flight=5)
    while heard.demand.connected() > 1:  # the broken stream tells nobody else
        await one.say(1000.5, in_flight=5)
    heard.now = 1010.0
    assert heard.demand.seen(KEY, heard.now).in_flight == 6
    assert heard.demand.seen(KEY, heard.now).blind
    heard.now = 1010.6
    assert heard.demand.seen(KEY, heard.now).in_flight == 5
    assert not heard.demand.seen(KEY, heard.now).blind
    await one.end()


async def test_without_any_gateway_nothing_is_known_however_long(heard: Heard) -> None:
    heard.demand.keep({KEY: Scaling()})
    for later in (0.0, 9.0, 11.0, 5000.0):
        assert heard.demand.seen(KEY, 1000.0 + later).blind
    one = Stream(heard, "one")
    await one.say(7000.0, in_flight=1)
    assert not heard.demand.seen(KEY, 7000.0).blind
    await one.end()
    await until(lambda: not heard.demand.connected())
    heard.now = 9000.0
    assert heard.demand.seen(KEY, 9000.0).in_flight == 0
    assert heard.demand.seen(KEY, 9000.0).blind
    assert heard.demand.blind_until(9000.0) == 9010.0
