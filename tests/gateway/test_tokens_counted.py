"""Delivered tokens are counted for the autoscaler: each once, for Prometheus and in the report."""

from __future__ import annotations

from gateway.scripted import dies_at_three, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": 2}
SERIES = 'forebay_function_tokens_total{function="default/tiny"}'


async def test_a_token_counts_once_however_many_heads_it_took(system):
    first, second = await system.head(), await system.head(stages=2)

    first.play = dies_at_three
    await system.route(first, second)
    before = await system.metric(SERIES)
    async with system.http.post("/v1/chat/completions", json=CHAT) as response:
        assert (await response.json())["usage"]["completion_tokens"] == 10
    await until(lambda: system.idle() and system.operator.demand().tokens == 10)
    assert await system.metric(SERIES) == before + 10


async def test_the_clock_is_shown_before_there_is_any_function(start):
    system = await start(routed=False)
    assert await system.metric("forebay_gateway_time_seconds") > 1e9
