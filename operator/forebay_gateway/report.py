"""The demand stream: the operator is told at once what is asked of this gateway, and every second that it is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import grpc

from forebay_gateway.desk import Desk
from forebay_gateway.uplink import Uplink
from forebay_wire.v1 import demand_pb2, demand_pb2_grpc

COALESCE_SECONDS = 0.002
PERIOD_SECONDS = 1.0
MAX_FIRST_TOKENS = 1000
"""Kept for an operator that is away; the oldest go first."""


class Reporter:
    """Full state, every time: a lost report costs nothing. ``gateway`` is unique per process."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._changed = asyncio.Event()
        self._first_tokens: list[demand_pb2.FirstToken] = []

    def changed(self) -> None:
        self._changed.set()

    def first_token(self, found: demand_pb2.FirstToken) -> None:
        self._first_tokens.append(found)
        del self._first_tokens[:-MAX_FIRST_TOKENS]
        self.changed()

    async def run(self, uplink: Uplink, desks: Callable[[], Iterable[Desk]]) -> None:
        """Report until cancelled."""

        async def session(channel: grpc.aio.Channel, answered: Callable[[], None]) -> None:
            call = demand_pb2_grpc.DemandStub(channel).Report()
            acks = asyncio.create_task(_drain(call, answered))
            try:
                while not acks.done():
                    told = self._report(desks())
                    self._changed.clear()
                    await call.write(told)
                    del self._first_tokens[: len(told.first_tokens)]
                    await self._wait(acks)
                await acks
            finally:
                acks.cancel()
                call.cancel()
                await asyncio.gather(acks, return_exceptions=True)

        await uplink.keep("demand", session)

    async def _wait(self, acks: asyncio.Task[None]) -> None:
        """For a change, a second, or the end of the stream."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({changed, acks}, timeout=PERIOD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if changed.done():
                await asyncio.sleep(COALESCE_SECONDS)
        finally:
            changed.cancel()

    def _report(self, desks: Iterable[Desk]) -> demand_pb2.DemandReport:
        return demand_pb2.DemandReport(
            gateway=self.gateway, functions=map(_demand, desks), first_tokens=self._first_tokens
        )


async def _drain(
    call: grpc.aio.StreamStreamCall[demand_pb2.DemandReport, demand_pb2.DemandAck], answered: Callable[[], None]
) -> None:
    while await call.read() is not grpc.aio.EOF:
        answered()


def _demand(desk: Desk) -> demand_pb2.FunctionDemand:
    oldest = min(desk.queue, key=lambda seat: seat.arrived, default=None)
    return demand_pb2.FunctionDemand(
        namespace=desk.key.namespace,
        name=desk.key.name,
        waiting=desk.waiting,
        in_flight=desk.in_flight,
        oldest_waiting_unix_us=int(oldest.arrived * 1e6) if oldest else 0,
        last_ended_unix_us=int(desk.last_ended * 1e6),
        prompt_bytes=oldest.prompt_bytes if oldest else 0,
        requests=desk.ended,
        tokens=desk.tokens,
    )
