"""The official client, sync and async, works unchanged."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.scripted import accepted, answered, token, until


@pytest.fixture
async def served(system):
    head = await system.head()
    await system.route(head)
    return system


MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


async def test_chat_is_answered(served):
    async with served.client() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0.5, seed=7)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", answered(), "length")
    assert answer.model == "tiny"
    assert answer.object == "chat.completion"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 5, 12)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    sent = served.heads[0].requests[0]
    assert sent.messages_json == '[{"role":"system","content":"be brief"},{"role":"user","content":"hello"}]'
    assert (sent.sampling.temperature, sent.sampling.seed, sent.sampling.n, sent.sampling.max_tokens) == (0.5, 7, 1, 0)
    assert sent.function == "default/tiny"


async def test_chat_streams(served):
    async with served.client() as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]) == answered()
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 5 + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_chat_streams_to_the_sync_client(served):
    def ask():
        with served.sync_client() as client:
            stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
            streamed = "".join(chunk.choices[0].delta.content for chunk in stream)
            return streamed, client.chat.completions.create(model="tiny", messages=MESSAGES), client.models.list().data

    streamed, whole, models = await asyncio.to_thread(ask)
    assert streamed == whole.choices[0].message.content == answered()
    assert [model.id for model in models] == ["tiny"]


async def test_choices_are_told_apart(served):
    async with served.client() as client:
        whole = await client.chat.completions.create(model="tiny", messages=MESSAGES, n=3)
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, n=3, stream=True)
        chunks = [chunk async for chunk in stream]
    assert [choice.message.content for choice in whole.choices] == [answered(0), answered(1), answered(2)]
    assert whole.usage.completion_tokens == 15
    for index in range(3):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content for choice in mine) == answered(index)
        assert mine[-1].finish_reason == "length"


async def test_chat_logprobs(served):
    async with served.client() as client:
        ask = {"model": "tiny", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2, "max_tokens": 2}
        whole = await client.chat.completions.create(**ask)
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
    content = whole.choices[0].logprobs.content
    assert [entry.token for entry in content] == ["0:0 ", "0:1 "]
    assert content[0].logprob == -0.5
    assert bytes(content[0].bytes) == b"0:0 "
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("top0", -0.5), ("top1", -1.5)]
    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert streamed == content


async def test_completions(served):
    async with served.client() as client:
        one = await client.completions.create(model="tiny", prompt="hello", max_tokens=3)
        several = await client.completions.create(model="tiny", prompt=["a", "b"], n=2, max_tokens=2)
        ids = await client.completions.create(model="tiny", prompt=[1, 2, 3])
        batch = await client.completions.create(model="tiny", prompt=[[1], [2, 3]])
        stream = await client.completions.create(model="tiny", prompt="hello", stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert one.choices[0].text == answered(length=3)
    assert one.object == "text_completion"
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices] == [answered(c, 2) for c in (0, 1, 0, 1)]
    assert (several.usage.prompt_tokens, several.usage.completion_tokens) == (14, 8)
    assert ids.choices[0].text == answered()
    assert len(batch.choices) == 2
    assert streamed == answered()
    sent = served.heads[0].requests
    assert sent[0].text == "hello"
    assert {request.text for request in sent[1:3]} == {"a", "b"}
    assert list(sent[3].token_ids.ids) == [1, 2, 3]
    assert sent[3].sampling.max_tokens == 16
    assert len({request.request_id for request in sent}) == len(sent)


async def test_completion_logprobs(served):
    async with served.client() as client:
        answer = await client.completions.create(model="tiny", prompt="x", max_tokens=2, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["0:0 ", "0:1 "]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.top_logprobs == [{"0:0 ": -0.5, "top0": -0.5}, {"0:1 ": -0.5, "top0": -0.5}]
    assert logprobs.text_offset == [0, 4]


async def test_every_parameter_reaches_the_head(served):
    async with served.client() as client:
        await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            max_completion_tokens=9,
            max_tokens=3,
            temperature=0,
            top_p=0.5,
            presence_penalty=0.25,
            frequency_penalty=-0.25,
            logit_bias={"42": -100},
            stop=["x", "y"],
            seed=-1,
            user="somebody",
            extra_body={
                "top_k": 4,
                "min_p": 0.125,
                "repetition_penalty": 1.5,
                "ignore_eos": True,
                "min_tokens": 2,
            },
        )
        await client.chat.completions.create(
            model="tiny", messages=MESSAGES, stop="z", response_format={"type": "text"}
        )
    first, second = served.heads[0].requests
    sampling = first.sampling
    assert first.messages_json == '[{"role":"system","content":"a\\nb"}]'
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature, sampling.top_p) == (9, 2, 0, 0.5)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty, sampling.ignore_eos) == (4, 0.125, 1.5, True)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, -0.25)
    assert dict(sampling.logit_bias) == {42: -100}
    assert list(sampling.stop) == ["x", "y"]
    assert sampling.seed == 2**64 - 1
    assert list(second.sampling.stop) == ["z"]
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        assert first.sampling.HasField(name)
        assert not second.sampling.HasField(name), "for the model to say"


async def test_what_a_template_is_given_goes_to_the_head(served):
    """And parameters that ask for what is done anyway are no error."""
    async with served.client() as client:
        await client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            extra_body={
                "chat_template_kwargs": {"enable_thinking": False, "depth": 2},
                "add_special_tokens": False,
                "add_generation_prompt": True,
                "skip_special_tokens": True,
                "bad_words": [],
            },
        )
        await client.completions.create(model="tiny", prompt="x", extra_body={"add_special_tokens": True})
    chat, text = served.heads[0].requests
    assert json.loads(chat.template_json) == {"enable_thinking": False, "depth": 2}
    assert text.template_json == ""


async def test_a_missing_seed_is_drawn(served):
    async with served.client() as client:
        for _ in range(2):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    first, second = (request.sampling.seed for request in served.heads[0].requests)
    assert first != second


async def test_text_that_is_held_back_makes_no_chunk(served):
    async def play(request, context):
        yield accepted()
        yield token(0, 0, text="")
        yield token(0, 1, text="both")
        yield token(0, 2, text="", last=True, finish="stop")

    served.heads[0].play = play
    async with served.client() as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    assert [chunk.delta.content for chunk in chunks] == ["", "both", ""]
    assert chunks[-1].finish_reason == "stop"


async def test_unknown_parameters_are_named(served):
    async with served.client() as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES, user="u", extra_body={"sparkle": 1, "bad\nname": 2, "n": None}
        )
    assert answer.headers["X-Forebay-Ignored"] == "user, sparkle"


async def test_models(served):
    async with served.client() as client:
        listed = await client.models.list()
        one = await client.models.retrieve("tiny")
        same = await client.models.retrieve("default/tiny")
    assert [model.id for model in listed.data] == ["tiny"]
    assert one == same == listed.data[0]
    assert (one.owned_by, one.created) == ("default", 1_700_000_000)


async def test_request_ids_are_kept_or_made(served):
    async with served.client() as client:
        kept = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES, extra_headers={"X-Request-Id": "abc-1"}
        )
        made = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES, extra_headers={"X-Request-Id": "not an id"}
        )
    assert kept.headers["X-Request-Id"] == "abc-1"
    assert kept.parse().id == "chatcmpl-abc-1"
    assert len(made.headers["X-Request-Id"]) == 32
    assert served.heads[0].requests[0].request_id.startswith("abc-1.")
    await until(served.idle)
