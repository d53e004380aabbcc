"""Heads that take no more for now: nobody is lost, nobody is overtaken, and nobody asks for the others."""

from __future__ import annotations

import asyncio

from grpc import StatusCode

from gateway.scripted import Gate, ask, function, refuse, token, until, whole


async def test_a_head_that_is_full_is_asked_again(system, monkeypatch):
    monkeypatch.setattr("forebay_gateway.waiting.FULL_SECONDS", 0.05)
    head = await system.head()
    full = True

    async def play(request, context):
        if full:
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "head_full")
        async for event in whole(request):
            yield event

    head.play = play
    await system.route(head)
    asked = ask(system)
    await until(lambda: len(head.requests) >= 2)
    full = False
    assert (await asked)[0] == 200


async def test_another_head_takes_what_a_full_one_refuses(system):
    short, long = await system.head(), await system.head(stages=2)

    async def play(request, context):
        await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "head_full")
        yield token(0, 0)

    short.play = play
    await system.route(short, long)
    assert (await ask(system))[0] == 200
    assert (len(short.requests), len(long.requests)) == (1, 1)


async def test_a_full_head_is_not_asked_over_and_over(system, monkeypatch):
    """It takes three at a time, of twenty: each of the others is refused once at most, and they come in their order."""
    monkeypatch.setattr("forebay_gateway.waiting.FULL_SECONDS", 60.0)
    head, gate = await system.head(), Gate()
    taken = []

    async def play(request, context):
        if head.active > 3:
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "head_full")
        taken.append(request.sampling.seed)
        async for event in gate(request, context):
            yield event

    head.play = play
    asked = []
    for number in range(20):
        asked.append(ask(system, seed=number))
        await until(lambda number=number: system.operator.demand().waiting == number + 1)
    await system.route(head)
    await until(lambda: head.active == 3 and system.operator.demand().waiting == 17)
    gate.open.set()
    assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}
    assert len(head.requests) <= 20 + 17
    assert taken[3:] == sorted(taken[3:])
    await until(system.idle)


async def test_the_room_is_bounded_for_those_that_a_full_head_refuses(system):
    head, gate = await system.head(), Gate()

    async def play(request, context):
        if head.active > 1:
            await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "head_full")
        async for event in gate(request, context):
            yield event

    head.play = play
    await system.settle(head, functions=[function(queue_max_requests=2)])
    asked = [ask(system) for _ in range(6)]
    async with asyncio.timeout(10):
        while sum(task.done() for task in asked) < 3:  # noqa: ASYNC110  # one is served, and two wait
            await asyncio.sleep(0.01)
    gate.open.set()
    answers = [answer for _, answer, _ in await asyncio.gather(*asked)]
    assert sorted(answer.get("error", {}).get("code", "") for answer in answers) == ["", "", "", *["queue_full"] * 3]
