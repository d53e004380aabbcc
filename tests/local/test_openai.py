"""The official client, sync and async, unchanged, against real workers: one running system for all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import torch

from local.reference import Reference
from local.system import PATIENCE, System, chat, function, running, write

Tiny = Callable[[str], Path]

SECRET = "quuxzanzibar"
"""In every prompt here, and to be in no log."""
PROMPT = f"The {SECRET} runs past the old mill and on to the sea, past the town and the gate and the sea again."
CONTEXT = 512
ONCE = {"minReplicas": 0, "maxReplicas": 1, "scaleToZeroGracePeriodSeconds": 600}


@pytest.fixture(scope="module")
def llama(tiny: Tiny) -> Reference:
    return Reference(tiny("llama"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("openai")
    bodies = [
        function("llama", tiny("llama"), scaling=ONCE),
        function(
            "narrow", tiny("llama"), scaling=ONCE, containerConcurrency=1, queue={"maxRequests": 2}, model={"name": "n"}
        ),
        function("cold", tiny("opt"), scaling=ONCE),
        function("suspended", tiny("llama"), suspend=True),
        function("pinned", tiny("llama"), replicas=0),
    ]
    file = write(folder / "functions.yaml", *bodies)
    with running(folder / "state", [file], workers=2, link_rate="400kB/s") as system:
        asyncio.run(_prepared(system, len(bodies)))
        yield system


async def _prepared(system: System, functions: int) -> None:
    await system.ready(2, functions=functions)


@pytest.fixture
async def client(system: System) -> AsyncIterator[openai.AsyncOpenAI]:
    async with system.client() as client:
        yield client


def test_the_sync_client(system: System, llama: Reference) -> None:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", timeout=PATIENCE) as client:
        ask: dict[str, Any] = {"model": "llama", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
        whole = client.chat.completions.create(**ask, max_tokens=9)
        llama.check(whole.choices[0].message.content or "", PROMPT, 9, chat=True)
        with client.chat.completions.create(**ask, max_tokens=9, stream=True) as stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        assert "llama" in {model.id for model in client.models.list()}
        assert client.models.retrieve("default/narrow").id == "n"


async def test_crowd_of_async_clients(system: System, llama: Reference) -> None:
    """Thirty-two clients at once, streaming or not, each with the tokens of transformers."""

    async def one(number: int) -> None:
        prompt, tokens = f"{number} {PROMPT[number:]}", 3 + number % 7
        async with system.client() as client:
            if number % 2:
                got = await chat(client, "llama", prompt, max_tokens=tokens)
            else:
                made = await client.completions.create(model="llama", prompt=prompt, max_tokens=tokens, temperature=0)
                got = made.choices[0].text
        answers.append((got, prompt, tokens, bool(number % 2)))

    answers: list[tuple[str, str, int, bool]] = []
    await asyncio.gather(*(one(number) for number in range(32)))
    assert len(answers) == 32
    for got, prompt, tokens, chatted in answers:
        llama.check(got, prompt, tokens, chat=chatted)


async def test_a_cold_start_is_told_to_who_asks(system: System) -> None:
    """What ``curl -N -H 'X-Forebay-Progress: true'`` shows: comments first, in order, then the answer."""
    body = {"model": "cold", "prompt": PROMPT, "stream": True, "max_tokens": 3}
    async with (
        aiohttp.ClientSession(system.url) as http,
        http.post("/v1/completions", json=body, headers={"X-Forebay-Progress": "true"}) as response,
    ):
        assert response.headers["x-forebay-cold-start"] == "true"
        events = [event for event in (await response.text()).split("\n\n") if event]
    told = [event for event in events if event.startswith(":")]
    assert events[: len(told)] == told
    percents = [int(re.fullmatch(r": forebay phase=\w+ percent=(\d+) eta=[\d.]+", event)[1]) for event in told]  # type: ignore[index]
    assert percents == sorted(percents)
    assert len(set(percents)) > 2, "it moves"
    assert events[-1] == "data: [DONE]"


async def test_usage_counts_what_was_cached(client: openai.AsyncOpenAI, llama: Reference) -> None:
    prompt = llama.tokenizer(f"cached {PROMPT}")["input_ids"]
    ask: dict[str, Any] = {"model": "llama", "prompt": prompt, "max_tokens": 3, "temperature": 0}
    usages = [(await client.completions.create(**ask)).usage for _ in range(2)]
    stream = await client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    usages += [chunk.usage async for chunk in stream if chunk.usage]
    for usage in usages:
        assert usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 3)
    whole_blocks = (len(prompt) - 1) // 16 * 16
    assert [usage.prompt_tokens_details.cached_tokens for usage in usages] == [0, whole_blocks, whole_blocks]  # type: ignore[union-attr]


async def test_logprobs_are_those_of_transformers(client: openai.AsyncOpenAI, llama: Reference) -> None:
    """Of a sampled answer: the model's own, before temperature, in both shapes and for prompts as text and as ids."""
    ids = llama.tokenizer(PROMPT)["input_ids"]
    ask: dict[str, Any] = {"model": "llama", "max_tokens": 5, "temperature": 0.8, "seed": 3}
    text, tokens = [await client.completions.create(**ask, prompt=given, logprobs=4) for given in (PROMPT, ids)]
    assert text.choices == tokens.choices
    found = text.choices[0].logprobs
    assert found
    made = await client.chat.completions.create(
        **ask, messages=[{"role": "user", "content": PROMPT}], logprobs=True, top_logprobs=4
    )
    content = made.choices[0].logprobs.content or []  # type: ignore[union-attr]
    chat_ids = llama.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    _compare(llama, ids, [value or 0.0 for value in found.token_logprobs or []])
    wanted = _compare(llama, chat_ids, [entry.logprob for entry in content])
    for entry, row in zip(content, wanted, strict=False):
        best = row.topk(4).values.tolist()
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(best, abs=1e-4)
    assert b"".join(bytes(entry.bytes or []) for entry in content).decode(errors="replace") == (
        made.choices[0].message.content
    )


def _compare(reference: Reference, prompt: list[int], got: list[float]) -> list[torch.Tensor]:
    """Follow the tokens that the logprobs tell, each found by its value; the rows of log-softmax."""
    ids, rows = list(prompt), []
    assert got
    for value in got:
        with torch.inference_mode():
            row = reference.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        token = int((row - value).abs().argmin())
        assert float(row[token]) == pytest.approx(value, abs=1e-4)
        ids.append(token)
        rows.append(row)
    return rows


async def test_options_do_what_they_say(client: openai.AsyncOpenAI, llama: Reference) -> None:
    async def complete(**change: Any) -> Any:
        ask = {"model": "llama", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        return (await client.completions.create(**ask | change)).choices

    greedy, cold, seeded, again, several = await asyncio.gather(
        complete(),
        complete(temperature=1, extra_body={"top_k": 1}),
        complete(temperature=1, seed=5, n=3),
        complete(temperature=1, seed=5, n=3),
        complete(prompt=[PROMPT, "another"], n=2),
    )
    assert greedy[0].text == cold[0].text
    assert greedy[0].finish_reason == "length"
    assert [choice.text for choice in seeded] == [choice.text for choice in again]
    assert len({choice.text for choice in seeded}) > 1
    assert [choice.index for choice in several] == [0, 1, 2, 3]
    assert several[0].text == several[1].text == greedy[0].text != several[2].text
    mark = next(char for char in greedy[0].text[2:] if char != "\ufffd")
    (stopped,) = await complete(stop=[mark])
    assert (stopped.text, stopped.finish_reason) == (greedy[0].text.partition(mark)[0], "stop")
    ids = llama.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    wanted = llama.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.3,
        pad_token_id=0,
    )
    (penalized,) = await complete(extra_body={"repetition_penalty": 1.3})
    assert penalized.text == llama.tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)


async def test_the_context_is_used_to_its_end(client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": "llama", "extra_body": {"ignore_eos": True}}
    made = await client.completions.create(**ask, prompt=[5] * (CONTEXT - 4), max_tokens=4)
    assert made.usage
    assert (made.usage.total_tokens, made.choices[0].finish_reason) == (CONTEXT, "length")
    for prompt, tokens, param in (([5] * (CONTEXT - 4), 5, "prompt"), (f"{SECRET} " * CONTEXT, 1, "prompt")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(**ask, prompt=prompt, max_tokens=tokens)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


@pytest.mark.parametrize("model", ["suspended", "pinned"])
async def test_what_a_person_switched_off_is_refused_at_once(client: openai.AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model=model, prompt=PROMPT)
    assert (caught.value.status_code, caught.value.code) == (503, "suspended")
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_full_queue_says_when_to_come_back(client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": "n", "prompt": PROMPT, "extra_body": {"ignore_eos": True}}
    stream = await client.completions.create(**ask, max_tokens=400, stream=True)
    await anext(stream)  # it is served, and two may wait
    asked = [asyncio.create_task(client.completions.create(**ask, max_tokens=8)) for _ in range(5)]
    refused = []
    async with asyncio.timeout(PATIENCE):
        for answer in islice(asyncio.as_completed(asked), 3):
            with pytest.raises(openai.RateLimitError) as caught:
                await answer
            refused.append(caught.value)
    await stream.close()
    assert [each.code for each in refused] == ["queue_full"] * 3
    assert all(1 <= int(each.response.headers["Retry-After"]) <= 120 for each in refused)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in found) == 2


async def test_gauges_tell_the_load_and_leaving_frees_it(system: System, client: openai.AsyncOpenAI) -> None:
    """Streams that are left and answers that are not waited for give their blocks back; meanwhile gauges count them."""
    long: dict[str, Any] = {"max_tokens": 400, "n": 4, "extra_body": {"ignore_eos": True}}
    ask: dict[str, Any] = {"model": "llama", "prompt": PROMPT, **long}
    streams = [await client.completions.create(**ask, stream=True) for _ in range(3)]
    unwatched = asyncio.create_task(client.completions.create(**ask))
    await system.until(lambda seen: sum(each["running"] for each in seen["pipelines"]) == 16, "four of each run")
    seen = await system.look()
    (pipeline,) = (each for each in seen["pipelines"] if each["running"])
    (url,) = (each["metricsUrl"] for each in seen["workers"] if each["name"] == pipeline["head"])
    gauges = await _gauges(url)
    label = f'model_name="{pipeline["backbone"]}"'
    assert gauges[f"vllm:num_requests_running{{{label}}}"] == 16
    assert gauges[f"vllm:num_requests_waiting{{{label}}}"] == 0
    assert 0 < gauges[f"vllm:kv_cache_usage_perc{{{label}}}"] < 1
    blocks = pipeline["kvBlocks"]
    assert gauges[f'vllm:cache_config_info{{block_size="16",{label},num_gpu_blocks="{blocks}"}}'] == 1
    assert any(name.startswith("vllm:lora_requests_info") for name in gauges)
    unwatched.cancel()
    for stream in streams:
        await stream.close()
    with contextlib.suppress(asyncio.CancelledError):
        await unwatched
    await system.until(
        lambda seen: all(
            (each["running"], each["waiting"], each["kvBlocksFree"]) == (0, 0, each["kvBlocks"])
            for each in seen["pipelines"]
        ),
        "every block is free again",
    )
    gauges = await _gauges(url)
    assert gauges[f"vllm:kv_cache_usage_perc{{{label}}}"] == 0
    assert gauges["forebay_generate_streams"] == 0


async def _gauges(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def test_one_page_of_metrics_for_operator_and_gateway(system: System) -> None:
    gauges = await _gauges(f"{system.url}/metrics")
    assert gauges["forebay_workers_attached"] == 2
    assert gauges["forebay_gateways_connected"] == 1
    assert gauges['forebay_inflight{function="default/llama"}'] == 0
    assert gauges['forebay_requests_total{code="200",function="default/llama"}'] > 32


async def test_ctrl_c_lets_streams_end_and_a_second_one_does_not(system: System, client: openai.AsyncOpenAI) -> None:
    """Nothing of this system runs after it."""
    ask: dict[str, Any] = {"model": "llama", "prompt": PROMPT, "stream": True, "extra_body": {"ignore_eos": True}}
    short = await client.completions.create(**ask, max_tokens=40)
    endless = await client.completions.create(**ask, max_tokens=400, n=64)
    up = system.processes["up"]
    up.send_signal(signal.SIGINT)
    assert [chunk.choices[0].finish_reason async for chunk in short][-1] == "length"
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):  # by whether a connection was open
        await client.models.list()
    assert up.poll() is None
    up.send_signal(signal.SIGINT)
    with pytest.raises(openai.APIError, match="this gateway stops"):
        _ = [chunk async for chunk in endless]
    assert system.stop("up", 0) == 0


def test_logs_are_json_and_hold_no_prompt(system: System) -> None:
    """The last of the file: everything above is in them."""
    own = [path for path in system.logs() if not path.name.startswith("test-")]
    assert own
    for path in own:
        text = path.read_text()
        assert SECRET not in text
        for line in text.splitlines():
            assert {"ts", "level", "event"} <= json.loads(line).keys()
