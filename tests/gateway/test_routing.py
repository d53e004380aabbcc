"""Host, path and model lead to the function; the page and the metrics are where they should be."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_api.model import Epoch
from forebay_gateway.page import policy
from forebay_gateway.pick import Load, Pipeline, choose
from gateway.scripted import answered, function, until

MESSAGES = [{"role": "user", "content": "x"}]
FUNCTIONS = [
    function("one", backbone="b0", model_name="llama"),
    function("two", backbone="b0", created_unix_us=1),
    function("one", "other", backbone="b0", model_name="llama", created_unix_us=5),
    function("four", backbone="b0", model_name="mixtral"),
    function("five", backbone="b0", model_name="qwen"),
    function("six", backbone="b0", model_name="qwen", created_unix_us=7),
    function("seven", "other", backbone="b0", model_name="four"),
]

LISTED = {"default/one", "other/one", "two", "mixtral", "default/five", "qwen", "other/seven"}


@pytest.fixture
async def served(start):
    system = await start(domain="fn.example.com")
    head = await system.head()
    await system.route(head, functions=FUNCTIONS)
    async with asyncio.timeout(10):
        while (await models(system)) != LISTED:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return system


async def models(system, path: str = "", **headers) -> set[str]:
    async with system.http.get(f"{path}/v1/models", headers=headers) as response:
        return {model["id"] for model in (await response.json())["data"]}


async def asked(system, path: str, model: str | None, host: str = "") -> str:
    """The function that answered, or the error's code."""
    body = {"messages": MESSAGES} | ({"model": model} if model else {})
    headers = {"Host": host} if host else {}
    before = len(system.heads[0].requests)
    async with system.http.post(f"{path}/v1/chat/completions", json=body, headers=headers) as response:
        answer = await response.json()
        if response.status != 200:
            return answer["error"]["code"] or answer["error"]["param"]
    return system.heads[0].requests[before].function


@pytest.mark.parametrize(
    ("path", "model", "host", "function"),
    [
        ("", "llama", "", "model_not_found"),  # functions of two namespaces serve this name
        ("", "qwen", "", "default/six"),  # two of one namespace do: the first created wins
        ("", "default/one", "", "default/one"),
        ("", "two", "", "default/two"),
        ("", "one", "", "model_not_found"),  # which of the two?
        ("", "four", "", "model_not_found"),  # nobody takes another's name for the name of a model
        ("", "five", "", "default/five"),
        ("", "mixtral", "", "default/four"),
        ("", None, "", "model"),
        ("/default/one", "llama", "", "default/one"),
        ("/default/one", "one", "", "default/one"),
        ("/default/one", "default/one", "", "default/one"),
        ("/default/one", None, "", "default/one"),
        ("/default/one", "two", "", "model_not_found"),
        ("/default/three", "two", "", "model_not_found"),
        ("", None, "two.default.fn.example.com", "default/two"),
        ("", "llama", "ONE.default.fn.example.com:8080", "default/one"),
        ("", "llama", "one.other.fn.example.com.", "other/one"),
        ("", "two", "elsewhere.com", "default/two"),
        ("", "two", "two.fn.example.com", "not_found"),
        ("", "two", "none.default.fn.example.com", "model_not_found"),
    ],
)
async def test_where_a_request_goes(served, path, model, host, function):
    assert await asked(served, path, model, host) == function


async def test_models_are_those_of_the_address(served):
    assert await models(served, "/default/two") == {"two"}
    assert await models(served, "", Host="two.default.fn.example.com") == {"two"}


async def test_the_client_takes_a_path(served):
    async with served.client(base_url=f"{served.url}/default/two/v1") as client:
        answer = await client.chat.completions.create(model="two", messages=MESSAGES)
    assert answer.choices[0].message.content == answered()


async def test_metrics_count_what_was_answered(served):
    assert await asked(served, "", "two") == "default/two"
    await asked(served, "", "nobody")
    assert await served.metric('forebay_requests_total{code="200",function="default/two"}') >= 1
    assert await served.metric('forebay_requests_total{code="404",function=""}') >= 1
    async with served.http.get("/metrics") as response:
        text = await response.text()
    for name in (
        "forebay_request_duration_seconds_count",
        'forebay_time_to_first_token_seconds_count{cold="false"}',
        "forebay_inter_token_latency_seconds_count",
        "forebay_queue_wait_seconds_count",
        'forebay_inflight{function="default/two"} 0.0',
        'forebay_queue_depth{function="default/two"} 0.0',
    ):
        assert name in text
    assert "nobody" not in text


async def test_the_page_allows_only_itself(system):
    async with system.http.get("/", allow_redirects=True) as response:
        assert response.url.path == "/ui"
        html = await response.text()
        found = response.headers["Content-Security-Policy"]
    assert found == policy(html)
    assert "default-src 'none'" in found
    assert "unsafe" not in found
    assert not re.search(r"\son\w+=|\sstyle=|https?://(?!www\.w3\.org)", html)


async def test_the_page_follows_the_view(system):
    system.operator.view = '{"functions":\n  []}'
    async with system.http.get("/ui/events") as response:
        assert response.content_type == "text/event-stream"

        async def view():
            while True:
                line = (await response.content.readline()).decode()
                if line.startswith("data: ") and "away" not in line:
                    return json.loads(line.removeprefix("data: "))

        assert await view() == {"functions": []}
        system.operator.view = '{"functions": [1]}'
        assert await view() == {"functions": [1]}
        await system.operator.stop()
        async with asyncio.timeout(10):
            while (await response.content.readline()) != b'data: {"away":true}\n':
                pass


def pipeline(counter: int, stages: int) -> Pipeline:
    return Pipeline(Epoch(1, counter), "b", f"w{counter}", "", "h:1", stages)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=6),
    st.integers(0, 4),
)
def test_the_shortest_open_pipeline_with_least_load_is_chosen(rows, limit):
    pipelines = [pipeline(counter, stages) for counter, (stages, *_) in enumerate(rows)]
    mine = {Epoch(1, counter): row[1] for counter, row in enumerate(rows)}
    everyone = {Epoch(1, counter): row[1] + row[2] for counter, row in enumerate(rows)}
    shut = {Epoch(1, counter) for counter, row in enumerate(rows) if row[3]}
    chosen = choose(pipelines, Load(everyone, mine), limit, shut)
    eligible = [p for p in pipelines if p.epoch not in shut and (limit == 0 or mine[p.epoch] < limit)]
    assert (chosen is None) == (not eligible)
    if chosen:
        assert chosen in eligible
        assert all((chosen.stages, everyone[chosen.epoch]) <= (p.stages, everyone[p.epoch]) for p in eligible)


async def test_nothing_is_counted_twice(served):
    await asyncio.gather(*(asked(served, "", "two") for _ in range(5)))
    await until(lambda: served.operator.demand("two").requests == 5)
    assert served.operator.demand("two").in_flight == 0


@pytest.mark.parametrize(("path", "host"), [("/team-a/nobody", ""), ("", "nobody.team-a.fn.example.com")])
async def test_no_models_where_no_function_is(served, path, host):
    async with served.http.get(f"{path}/v1/models", headers={"Host": host} if host else {}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_found"
