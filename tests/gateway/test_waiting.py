"""Requests are held, in order, within bounds, and everything they count is given back."""

from __future__ import annotations

import asyncio

import pytest

from forebay_gateway.desk import retry_after
from forebay_wire.v1 import demand_pb2
from gateway.scripted import CHAT, Gate, answered, ask, data, events, function, token, until


async def test_a_function_at_zero_holds_and_tells_the_operator(system):
    waiting = [ask(system), ask(system)]
    await until(lambda: system.operator.demand().waiting == 2)
    demand = system.operator.demand()
    assert demand.oldest_waiting_unix_us > 0
    assert demand.prompt_bytes > 0
    assert demand.in_flight == 0
    await system.route(await system.head())
    for status, answer, headers in await asyncio.gather(*waiting):
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == answered()
        assert headers["x-forebay-cold-start"] == "true"
    await until(system.idle)
    assert system.operator.demand().requests == 2
    assert system.operator.demand().last_ended_unix_us > 0
    await until(lambda: len(system.operator.first_tokens) == 2)
    first = system.operator.first_tokens[0]
    assert (first.namespace, first.name, first.epoch.counter) == ("default", "tiny", 1)
    assert first.arrived_unix_us < first.first_token_unix_us


async def test_a_warm_function_is_no_cold_start(system):
    await system.settle(await system.head())
    _, _, headers = await ask(system)
    assert "x-forebay-cold-start" not in headers
    await until(system.idle)
    assert not system.operator.first_tokens


async def test_the_cold_budget_ends_in_503(system):
    await system.route(
        functions=[
            function(
                cold_start_timeout_seconds=1,
                queue_timeout_seconds=100,
                progress=demand_pb2.Progress(phase="Loading", fraction=0.5, eta_seconds=42.4),
            )
        ]
    )
    status, answer, headers = await ask(system)
    assert (status, answer["error"]["code"]) == (503, "cold_start_timeout")
    assert headers["Retry-After"] == "43"
    await until(system.idle)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_cold_budget_goes_on_at_a_head_without_weights(system, stream):
    loading = demand_pb2.Progress(phase="Loading", fraction=0.5, eta_seconds=42.4)
    head = await system.head()
    head.play = Gate()
    await system.settle(head, functions=[function(cold_start_timeout_seconds=1, progress=loading)])
    status, answer, headers = await ask(system, stream=stream)
    assert (status, answer["error"]["code"]) == (503, "cold_start_timeout")
    assert headers["Retry-After"] == "43"
    await until(lambda: system.idle() and head.active == 0)


async def test_a_cold_start_that_is_over_has_no_budget(system):
    loading = demand_pb2.Progress(phase="Loading", fraction=0.5, eta_seconds=0.1)
    head = await system.head()
    gate = head.play = Gate()
    await system.settle(head, functions=[function(cold_start_timeout_seconds=1, progress=loading)])
    answer = ask(system)
    await until(lambda: head.active)
    await system.settle(head, functions=[function(cold_start_timeout_seconds=1)])
    await asyncio.sleep(1.1)
    gate.open.set()
    assert (await answer)[0] == 200


async def test_an_unpredicted_cold_start_is_not_retried_at_once(system):
    queued = demand_pb2.Progress(phase="Queued", fraction=0, eta_seconds=0)
    await system.route(functions=[function(cold_start_timeout_seconds=1, progress=queued)])
    _, _, headers = await ask(system)
    assert headers["Retry-After"] == "10"


async def test_the_queue_budget_ends_in_503_though_the_cold_one_is_long(system):
    head = await system.head()
    gate = head.play = Gate()
    await system.route(head, functions=[function(container_concurrency=1, queue_timeout_seconds=1)])
    first = ask(system)
    await until(lambda: head.active == 1)
    status, answer, headers = await ask(system)
    assert (status, answer["error"]["code"]) == (503, "no_capacity")
    assert 1 <= int(headers["Retry-After"]) <= 120
    gate.open.set()
    assert (await first)[0] == 200
    assert head.most_active == 1


async def test_the_whole_answer_has_a_deadline(system):
    head = await system.head()
    head.play = Gate(first=1)
    await system.settle(head, functions=[function(timeout_seconds=1)])
    status, answer, _ = await ask(system)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (504, "timeout", "timeout")
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.status == 200
        last = (await events(response))[-1]
    assert last.startswith("event: error\ndata: ")
    assert '"code":"timeout"' in last
    await until(system.idle)
    assert head.active == 0


async def test_a_full_room_refuses(system):
    await system.settle(functions=[function(queue_max_requests=2)])
    waiting = [ask(system), ask(system)]
    await until(lambda: system.operator.demand().waiting == 2)
    status, answer, headers = await ask(system)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (429, "rate_limit_error", "queue_full")
    assert 1 <= int(headers["Retry-After"]) <= 120
    await system.route(await system.head(), functions=[function(queue_max_requests=2)])
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]
    await until(system.idle)


async def test_first_come_first_served_within_the_concurrency(system):
    head = await system.head()
    gate = head.play = Gate()
    limited = [function(container_concurrency=1)]
    await system.route(head, functions=limited)
    asked = []
    for number in range(4):
        asked.append(ask(system, seed=number))
        await until(lambda number=number: system.operator.demand().waiting == number or head.active)
        await until(lambda number=number: system.operator.demand().waiting == number)
    gate.open.set()
    await asyncio.gather(*asked)
    assert [request.sampling.seed for request in head.requests] == [0, 1, 2, 3]
    assert head.most_active == 1


async def test_concurrency_counts_per_replica(system):
    heads = [await system.head(), await system.head()]
    gate = Gate()
    for head in heads:
        head.play = gate
    await system.route(*heads, functions=[function(container_concurrency=1)])
    asked = [ask(system) for _ in range(3)]
    await until(lambda: [head.active for head in heads] == [1, 1] and system.operator.demand().waiting == 1)
    gate.open.set()
    await asyncio.gather(*asked)
    assert [head.most_active for head in heads] == [1, 1]


async def test_a_caller_that_leaves_frees_its_place(system):
    head = await system.head()
    gate = head.play = Gate(first=1)
    await system.route(head, functions=[function(container_concurrency=1)])
    served, held = ask(system), ask(system)
    await until(lambda: system.operator.demand().waiting == 1 and system.operator.demand().in_flight == 1)
    held.cancel()
    await until(lambda: system.operator.demand().waiting == 0)
    served.cancel()
    await until(lambda: head.left == 1)
    await until(system.idle)
    gate.open.set()
    assert (await ask(system))[0] == 200
    assert await system.metric('forebay_inflight{function="default/tiny"}') == 0
    assert await system.metric('forebay_queue_depth{function="default/tiny"}') == 0


async def test_a_streaming_caller_that_leaves_frees_its_place(system):
    head = await system.head()
    head.play = Gate(first=2)
    await system.route(head)
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        await response.content.readline()
        response.close()
    await until(lambda: head.left == 1)
    await until(system.idle)


async def test_held_requests_are_told_when_capacity_cannot_come(system):
    suspended, deleted = ask(system), ask(system, model="other")
    await until(lambda: system.operator.demand().waiting == 1)
    deleted.cancel()
    await system.route(functions=[function(refusal_reason="Suspended", refusal_message="by hand")])
    status, answer, headers = await suspended
    assert (status, answer["error"]["code"], headers["x-should-retry"]) == (503, "suspended", "false")
    await system.settle()
    again = ask(system)
    await until(lambda: system.operator.demand().waiting == 1)
    await system.route(functions=[function("other")])
    assert (await again)[0] == 404


async def test_progress_is_shown_to_who_asks(system):
    def loading(fraction, eta):
        return [function(progress=demand_pb2.Progress(phase="Loading", fraction=fraction, eta_seconds=eta))]

    headers = {"X-Forebay-Progress": "true"}
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers) as response:
        assert response.status == 200  # before anything can serve
        assert await response.content.readline() == b": forebay phase=Queued percent=0 eta=0.0\n"
        await system.route(functions=loading(0.42, 1.3))
        await response.content.readline()
        assert await response.content.readline() == b": forebay phase=Loading percent=42 eta=1.3\n"
        head = await system.head()
        gate = head.play = Gate()
        await system.route(head, functions=loading(0.5, 1))
        await until(lambda: head.active == 1)
        await system.route(head, functions=loading(0.75, 0.5))  # the head has it, and waits for weights
        async with asyncio.timeout(10):
            while await response.content.readline() != b": forebay phase=Loading percent=75 eta=0.5\n":
                assert not response.content.at_eof()
        gate.open.set()
        rest = await events(response)
    assert rest[-1] == "data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in data(rest)) == answered()


async def test_a_refusal_after_early_headers_is_an_event(system):
    await system.route(functions=[function(cold_start_timeout_seconds=1)])
    headers = {"X-Forebay-Progress": "true"}
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers) as response:
        assert response.status == 200
        last = (await events(response))[-1]
    assert '"code":"cold_start_timeout"' in last
    assert await system.metric('forebay_requests_total{code="503",function="default/tiny"}') >= 1


async def test_without_the_header_a_late_stream_is_still_a_503(system):
    await system.route(functions=[function(cold_start_timeout_seconds=1)])
    assert (await ask(system, stream=True))[0] == 503


async def test_a_request_waits_for_the_first_table(start):
    system = await start(routed=False)
    async with system.http.get("/health") as health, system.http.get("/ready") as ready:
        assert (health.status, ready.status) == (200, 503)
    early = ask(system)
    await asyncio.sleep(0.05)
    await system.route(await system.head())
    assert (await early)[0] == 200


async def test_without_any_table_it_is_503_not_404(start):
    system = await start(routed=False, table_seconds=0.1)
    status, answer, headers = await ask(system)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "no_capacity", "1")
    async with system.http.get("/v1/models") as models:
        assert models.status == 503  # not: there are none


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"waiting": 0, "slots": 0, "service_seconds": 1, "eta": None}, 1),
        ({"waiting": 10, "slots": 2, "service_seconds": 3, "eta": None}, 15),
        ({"waiting": 0, "slots": 1, "service_seconds": 1, "eta": 7.2}, 8),
        ({"waiting": 1000, "slots": 1, "service_seconds": 60, "eta": 7}, 120),
    ],
)
def test_when_to_come_back(given, seconds):
    assert retry_after(**given) == seconds


async def test_many_held_requests_are_all_served(system):
    asked = [ask(system) for _ in range(60)]
    await until(lambda: system.operator.demand().waiting == 60)
    await system.route(await system.head(), functions=[function(container_concurrency=4)])
    assert {status for status, _, _ in await asyncio.gather(*asked)} == {200}
    assert system.heads[0].most_active <= 4
    await until(system.idle)


async def test_what_becomes_cold_has_the_budget_of_a_cold_start(system):
    """The request came when something served; that died, and the next head takes requests before its weights."""
    warm, loading = await system.head(), await system.head()
    warm.play, loading.play = Gate(), Gate()
    brief = {"cold_start_timeout_seconds": 1}
    await system.settle(warm, functions=[function(**brief)])
    asked = ask(system)
    await until(lambda: warm.active == 1)
    progress = demand_pb2.Progress(phase="Loading", fraction=0.1, eta_seconds=9)
    await system.route(loading, functions=[function(progress=progress, **brief)])
    await warm.stop()
    status, answer, _ = await asked
    assert (status, answer["error"]["code"]) == (503, "cold_start_timeout")
    await until(system.idle)


async def test_who_does_not_read_the_end_is_not_waited_for(system, monkeypatch):
    monkeypatch.setattr("forebay_gateway.app.END_SECONDS", 0.2)
    head = await system.head()

    async def much(request, context):
        yield token(0, 0, last=True, text="x" * (16 << 20))

    head.play = much
    await system.settle(head, functions=[function(timeout_seconds=4)])
    gone = 'forebay_requests_total{code="499",function="default/tiny"}'
    before = await system.metric(gone)
    async with system.http.post("/v1/chat/completions", json=CHAT | {"stream": True}):
        async with asyncio.timeout(30):
            while await system.metric(gone) == before:  # noqa: ASYNC110  # a metric tells no event
                await asyncio.sleep(0.05)
    await until(system.idle)
