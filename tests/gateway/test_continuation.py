"""A head that dies, falls silent or drains costs a pause: every token is delivered once."""

from __future__ import annotations

import asyncio

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway.ask import Token
from forebay_gateway.relay import MAX_LOST
from forebay_gateway.tokens import Gap, TokenLog
from gateway.scripted import (
    Gate,
    Head,
    accepted,
    answered,
    data,
    dies_at_three,
    done,
    events,
    function,
    refuse,
    token,
    until,
    whole,
)

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


async def ask(system, **change):
    async with system.http.post("/v1/chat/completions", json=CHAT | change) as response:
        return response.status, await response.json()


def contents(answer) -> list[str]:
    return [choice["message"]["content"] for choice in answer["choices"]]


async def delivered(system) -> float:
    """Tokens that callers were given."""
    return await system.metric('forebay_function_tokens_total{function="default/tiny"}')


async def until_delivered(system, tokens: float) -> None:
    async with asyncio.timeout(10):
        while await delivered(system) < tokens:  # noqa: ASYNC110  # a metric tells no event
            await asyncio.sleep(0.01)


async def continuations(system, reason: str) -> float:
    return await system.metric(f'forebay_continuations_total{{reason="{reason}"}}')


async def test_a_killed_head_costs_a_pause(system):
    first, second = await system.head(), await system.head()
    first.play = Gate(first=2)
    await system.route(first)
    before, given = await continuations(system, "head_lost"), await delivered(system)
    asked = asyncio.create_task(ask(system, n=2, seed=11, chat_template_kwargs={"enable_thinking": False}))
    await until_delivered(system, given + 4)
    await first.stop()
    await until(lambda: system.operator.demand().waiting == 1)
    await system.route(second)
    status, answer = await asked
    assert status == 200
    assert contents(answer) == [answered(0), answered(1)]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 10,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    resumed = second.requests[0]
    assert done(resumed) == {0: 2, 1: 2}
    assert [list(choice.tokens) for choice in resumed.resumed] == [[0, 1], [1000, 1001]]
    assert resumed.sampling == first.requests[0].sampling
    assert resumed.template_json == first.requests[0].template_json == '{"enable_thinking":false}'
    assert await continuations(system, "head_lost") == before + 1
    await until(system.idle)


async def test_a_stream_goes_on_without_a_seam(system):
    first, second = await system.head(), await system.head(stages=2)

    first.play = dies_at_three
    await system.route(first, second)
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        found = await events(response)
    chunks = data(found)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == answered()
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks].count("assistant") == 1
    assert found[-1] == "data: [DONE]"


async def test_a_finished_choice_is_not_asked_again(system):
    first, second = await system.head(), await system.head(stages=2)

    async def dies(request, context):
        yield accepted()
        yield token(1, 0, last=True, finish="stop")
        yield token(0, 0)
        await refuse(context, StatusCode.UNAVAILABLE, "pipeline_gone")

    async def goes_on(request, context):
        yield accepted()
        assert [(resumed.choice, resumed.finished) for resumed in request.resumed] == [(0, False), (1, True)]
        yield token(0, 1, last=True)

    first.play, second.play = dies, goes_on
    await system.route(first, second)
    status, answer = await ask(system, n=2)
    assert status == 200
    assert contents(answer) == ["0:0 0:1 ", "1:0 "]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "stop"]


async def test_a_silent_head_is_taken_for_dead(system, monkeypatch):
    monkeypatch.setattr("forebay_gateway.heads.SILENCE_SECONDS", 0.3)
    first, second = await system.head(), await system.head(stages=2)

    async def silent(request, context):
        yield accepted()
        yield token(0, 0)
        await asyncio.Event().wait()

    first.play = silent
    await system.route(first, second)
    status, answer = await ask(system)
    assert (status, contents(answer)) == (200, [answered()])
    assert done(second.requests[0]) == {0: 1}
    await until(lambda: first.left == 1)


@pytest.mark.parametrize("reason", ["pipeline_unknown", "pipeline_draining"])
async def test_a_pipeline_that_takes_nothing_new_is_left_alone(system, reason):
    first, second = await system.head(), await system.head(stages=2)

    async def refuses(request, context):
        await refuse(context, StatusCode.FAILED_PRECONDITION, reason)
        yield

    first.play = refuses
    await system.route(first, second)
    for _ in range(3):
        assert (await ask(system))[0] == 200
    assert len(first.requests) == 1
    await system.settle(second)  # the roster's pipelines change: it may be asked again
    await system.settle(first, second)
    assert (await ask(system))[0] == 200
    assert len(first.requests) == 2


async def test_a_failed_pipeline_is_asked_again_if_the_operator_insists(system, monkeypatch):
    monkeypatch.setattr("forebay_gateway.waiting.FAILED_SECONDS", 0.05)
    head = await system.head()
    await system.route(head)
    await head.stop()
    asked = asyncio.create_task(ask(system))
    await until(lambda: system.operator.demand().waiting == 1)
    await head.start()
    assert (await asked)[0] == 200


async def test_a_slow_caller_does_not_shut_the_pipeline(system):
    head = await system.head()

    async def gives_up_once(request, context):
        async for event in whole(request):
            yield event
            if len(head.requests) == 1 and event.token.index == 2:
                await refuse(context, StatusCode.RESOURCE_EXHAUSTED, "slow_consumer")

    head.play = gives_up_once
    await system.route(head, functions=[function(cold_start_timeout_seconds=1, queue_timeout_seconds=1)])
    status, answer = await ask(system)
    assert (status, contents(answer)) == (200, [answered()])
    assert len(head.requests) == 2


async def test_duplicates_are_dropped(system):
    first, second = await system.head(), await system.head(stages=2)

    async def dies(request, context):
        yield accepted()
        yield token(0, 0)
        yield token(0, 1)
        await refuse(context, StatusCode.UNAVAILABLE, "pipeline_gone")

    async def repeats(request, context):
        yield accepted(prompt_tokens=9)
        for index in range(5):
            yield token(0, index, last=index == 4)

    first.play, second.play = dies, repeats
    await system.route(first, second)
    status, answer = await ask(system)
    assert (status, contents(answer)) == (200, [answered()])
    assert answer["usage"]["prompt_tokens"] == 7


@pytest.mark.parametrize("fault", ["gap", "early end", "unknown"])
async def test_a_request_that_breaks_heads_is_given_up(system, monkeypatch, fault):
    monkeypatch.setattr("forebay_gateway.waiting.FAILED_SECONDS", 0.02)
    head = await system.head()

    async def breaks(request, context):
        yield accepted()
        if fault == "gap":
            yield token(0, 3)
        elif fault == "unknown":
            await context.abort(StatusCode.UNKNOWN, "surprise")

    head.play = breaks
    await system.route(head)
    status, answer = await ask(system)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (500, "server_error", "internal_error")
    assert len(head.requests) == 3
    await until(system.idle)


@pytest.mark.parametrize(
    ("taken", "reason"), [(True, ""), (False, ""), (True, "pipeline_gone")], ids=["head", "head at once", "pipeline"]
)
async def test_a_request_that_kills_heads_is_given_up(system, monkeypatch, taken, reason):
    monkeypatch.setattr("forebay_gateway.waiting.FAILED_SECONDS", 0.02)
    head = await system.head()

    async def dies(request, context):
        if taken:
            yield accepted()
        await refuse(context, StatusCode.UNAVAILABLE, reason, "Socket closed")

    head.play = dies
    await system.route(head)
    status, answer = await ask(system)
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert len(head.requests) == 8
    await until(system.idle)


async def test_what_is_no_doing_of_the_request_may_last(system, monkeypatch):
    """Pipelines that were gone before they took it, that end, and heads that nobody can reach."""
    monkeypatch.setattr("forebay_gateway.waiting.FAILED_SECONDS", 0.02)
    away, head = await system.head(), await system.head(stages=2)
    await away.stop()
    codes = {"pipeline_gone": StatusCode.UNAVAILABLE, "pipeline_draining": StatusCode.FAILED_PRECONDITION}
    reasons = [reason for reason in codes for _ in range(MAX_LOST)]

    async def at_last(request, context):
        if reasons:
            reason = reasons.pop()
            await refuse(context, codes[reason], reason)
        async for event in whole(request):
            yield event

    head.play = at_last
    before = await continuations(system, "head_unreachable")
    await system.route(away, head)
    status, answer = await ask(system)
    assert (status, contents(answer)) == (200, [answered()])
    assert await continuations(system, "head_unreachable") >= before + MAX_LOST


@pytest.mark.parametrize("stream", [False, True])
async def test_a_head_where_no_more_fits_closes_what_came_there(system, stream):
    """The first one dies after three tokens; the second has room for no fourth, and shows what was held back."""
    first, second = await system.head(), await system.head(stages=2)
    first.play = dies_at_three

    async def closes(request, context):
        yield accepted()
        last = len(request.resumed[0].tokens) - 1
        yield token(0, last, last=True, text="rest")

    second.play = closes
    await system.route(first, second)
    shown = answered(length=3) + "rest"
    if stream:
        async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}) as response:
            chunks = [chunk["choices"][0] for chunk in data(await events(response))]
        assert "".join(chunk["delta"]["content"] for chunk in chunks) == shown
        assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["length"]
    else:
        status, answer = await ask(system)
        assert (status, contents(answer), answer["choices"][0]["finish_reason"]) == (200, [shown], "length")
        assert answer["usage"]["completion_tokens"] == 3
    await until(system.idle)


async def test_another_model_does_not_continue_an_answer(system):
    old, new = await system.head(), await system.head()
    old.play = Gate(first=2)
    await system.route(old)
    given = await delivered(system)
    asked = asyncio.create_task(ask(system))
    await until_delivered(system, given + 2)
    await system.operator.push([function(backbone="b1")], [new.route("b1")])
    await old.stop()
    status, answer = await asked
    assert (status, answer["error"]["code"]) == (503, "no_capacity")
    assert "changed" in answer["error"]["message"]
    assert not new.requests


async def test_every_prompt_of_a_list_continues_by_itself(system):
    first, second = await system.head(), await system.head(stages=2)

    async def dies_on_a(request, context):
        async for event in whole(request):
            yield event
            if request.text == "a" and event.token.index == 1:
                await refuse(context, StatusCode.UNAVAILABLE, "pipeline_gone")

    first.play = dies_on_a
    await system.route(first, second)
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 2}
    async with system.http.post("/v1/completions", json=body) as response:
        answer = await response.json()
    assert [choice["text"] for choice in answer["choices"]] == [answered(0), answered(1)] * 2


async def test_two_heads_die_one_after_the_other(system):
    heads: list[Head] = [await system.head() for _ in range(3)]
    for number, head in enumerate(heads[:2]):
        head.play = Gate(first=number + 1)
    await system.route(heads[0])
    given = await delivered(system)
    asked = asyncio.create_task(ask(system))
    for number in range(2):
        await until_delivered(system, given + number + 1)
        await heads[number].stop()
        await system.route(heads[number + 1])
    status, answer = await asked
    assert (status, contents(answer)) == (200, [answered()])
    assert done(heads[2].requests[0]) == {0: 2}


async def test_an_operator_that_is_away_is_not_missed(system):
    head = await system.head()
    gate = head.play = Gate(first=1)
    await system.route(head)
    under_way = asyncio.create_task(ask(system))
    await until(lambda: head.active == 1)
    await system.operator.stop()
    later = asyncio.create_task(ask(system))
    await until(lambda: head.active == 2)
    gate.open.set()
    assert [status for status, _ in await asyncio.gather(under_way, later)] == [200, 200]
    system.operator.reports.clear()
    await system.operator.start()
    await until(lambda: system.operator.demand().requests == 2)  # it is told all of it anew


async def test_an_operator_that_comes_back_changes_the_routes(system):
    first, second = await system.head(), await system.head()
    await system.route(first)
    assert (await ask(system))[0] == 200
    await system.operator.stop()
    await system.route(second, functions=[function(), function("more")])
    await system.operator.start()
    await until(lambda: len(system.operator.reports) > 1)
    async with asyncio.timeout(10):
        while not second.requests:
            assert (await ask(system))[0] == 200
            await asyncio.sleep(0.02)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=60))
def test_the_log_takes_each_token_once_and_in_order(given_tokens):
    log = TokenLog(3)
    taken: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for choice, index in given_tokens:
        expected = len(taken[choice])
        try:
            new = log.take(Token(choice, index, index, "", finish="stop" if index == 4 else ""))
        except Gap:
            assert index > expected
            continue
        assert new == (index == expected)
        if new:
            taken[choice].append(index)
    assert [choice.tokens for choice in log.choices] == list(taken.values())
    assert all(tokens == list(range(len(tokens))) for tokens in taken.values())
    assert log.complete == all(len(tokens) == 5 for tokens in taken.values())
