"""Whatever is wrong with a request gets one clear OpenAI error."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from grpc import StatusCode

from forebay_gateway import errors
from gateway.scripted import function, refuse, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
TEXT = {"model": "tiny", "prompt": "x"}


async def post(system, path: str, body: object, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with system.http.post(path, data=data, **options) as response:
        return response.status, (await response.json())["error"], response.headers


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 257}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"seed": "s"}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"add_special_tokens": True}, "add_special_tokens"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"bad_words": ["x"]}, "bad_words"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": {"b": 1}}}, "chat_template_kwargs[...]"),
        ({"chat_template_kwargs": {"a": "x" * 4096}}, "chat_template_kwargs"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [1]}]},
            "messages[1].tool_calls",
        ),
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
    ],
)
async def test_a_wrong_chat_names_its_field(system, change, param):
    status, error, _ = await post(system, "/v1/chat/completions", CHAT | change)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param.split("[")[0].split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ({"prompt": [1] * 250}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"max_tokens": 257}, "max_tokens"),
    ],
)
async def test_a_wrong_completion_names_its_field(system, change, param):
    status, error, _ = await post(system, "/v1/completions", TEXT | change)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "tiny"}',
        b'{"messages": ' + b"[" * 50_000,
    ],
    ids=["empty", "open", "list", "null", "text", "bytes", "no utf-8", "incomplete", "deep"],
)
async def test_what_is_no_request_is_400(system, body):
    status, error, _ = await post(system, "/v1/chat/completions", body)
    assert (status, error["type"]) == (400, "invalid_request_error")


async def test_a_prompt_longer_than_the_context(system):
    status, error, _ = await post(system, "/v1/completions", TEXT | {"prompt": [1] * 300, "max_tokens": 1})
    assert (status, error["code"]) == (400, "context_length_exceeded")


async def test_the_head_refuses_what_only_it_can_count(system):
    head = await system.head()
    await system.route(head)
    for reason, code in (("context_length_exceeded", "context_length_exceeded"), ("invalid_request", None)):
        head.play = lambda request, context, reason=reason: _refusing(context, StatusCode.INVALID_ARGUMENT, reason)
        for stream in (False, True):
            status, error, _ = await post(system, "/v1/chat/completions", CHAT | {"stream": stream})
            assert (status, error["code"], error["message"]) == (400, code, f"because {reason}")
    assert len(head.requests) == 4
    await until(system.idle)


@pytest.mark.parametrize(
    ("path", "said", "param"),
    [
        ("/v1/chat/completions", "prompt: has 300 tokens", "messages"),
        ("/v1/completions", "prompt: token 512 is not in the vocabulary", "prompt"),
        ("/v1/completions", "max_tokens: is 99 after a prompt of 200 tokens", "max_tokens"),
        ("/v1/chat/completions", "messages[0]: must be an object", "messages[0]"),
        ("/v1/chat/completions", "the chat template says: roles must alternate", None),
    ],
)
async def test_the_field_that_a_head_refuses_is_named(system, path, said, param):
    head = await system.head()
    await system.route(head)

    async def play(request, context):
        await refuse(context, StatusCode.INVALID_ARGUMENT, "invalid_request", said)
        yield

    head.play = play
    _, error, _ = await post(system, path, CHAT if "chat" in path else TEXT)
    assert (error["message"], error["param"]) == (said, param)


async def _refusing(context, code, reason):
    await refuse(context, code, reason, f"because {reason}")
    yield


async def test_unknown_model_path_and_method(system):
    status, error, _ = await post(system, "/v1/chat/completions", CHAT | {"model": "nobody"})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    status, error, _ = await post(system, "/v1/embeddings", {})
    assert (status, error["code"]) == (404, "not_found")
    async with system.http.get("/v1/chat/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_the_client_raises_its_own_errors(system):
    async with system.client() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nobody", messages=CHAT["messages"])
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.chat.completions.create(model="tiny", messages=CHAT["messages"], temperature=9)
        assert wrong.value.param == "temperature"


async def test_a_suspended_function_is_refused_for_good(system):
    await system.route(
        functions=[
            function(refusal_reason="Suspended", refusal_message="spec.suspend is true", state="Suspended"),
            function("bad", refusal_reason="UnsupportedArchitecture", refusal_message="Mamba", state="Failed"),
        ]
    )
    for model, code, words in (
        ("tiny", "suspended", "spec.suspend"),
        ("bad", "no_capacity", "UnsupportedArchitecture"),
    ):
        await until_refused(system, model)
        status, error, headers = await post(system, "/v1/chat/completions", CHAT | {"model": model})
        assert (status, error["code"]) == (503, code)
        assert words in error["message"]
        assert headers["x-should-retry"] == "false"
        assert "Retry-After" not in headers


async def until_refused(system, model):
    async with asyncio.timeout(10):
        while True:
            async with system.http.get(f"/v1/models/{model}") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.01)


async def test_a_huge_body_is_refused_before_it_is_read(system):
    host, port = system.url.removeprefix("http://").split(":")
    for extra in ("", "Expect: 100-continue\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {2 << 30}\r\n{extra}\r\n{{".encode()
        )
        async with asyncio.timeout(10):
            assert b" 413 " in await reader.readline()
        writer.close()


async def test_a_body_without_a_length_is_cut_at_the_limit(start):
    system = await start(body_bytes=100_000)

    async def endless():
        for _ in range(100):
            yield b"x" * 10_000

    async with system.http.post("/v1/chat/completions", data=endless()) as response:
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "body_too_large"


async def test_all_bodies_together_are_bounded(start):
    system = await start(held_bytes=100)
    status, error, headers = await post(system, "/v1/chat/completions", b"x" * 200)
    assert (status, error["code"], headers["Retry-After"]) == (429, "queue_full", "1")


async def test_a_body_that_trickles_is_cut(start):
    system = await start(body_seconds=0.3)
    host, port = system.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

    async def trickle():
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(10):
        assert b" 408 " in await reader.readline()
        assert b"body_too_slow" in await reader.read()  # and the connection is closed
    trickling.cancel()
    writer.close()


async def test_a_gzip_bomb_is_cut_at_the_limit(start):
    import gzip

    system = await start(body_bytes=100_000)
    bomb = gzip.compress(b" " * 10_000_000)
    status, error, _ = await post(system, "/v1/chat/completions", bomb, headers={"Content-Encoding": "gzip"})
    assert (status, error["code"]) == (413, "body_too_large")
    status, _, _ = await post(system, "/v1/chat/completions", b"no gzip", headers={"Content-Encoding": "gzip"})
    assert status == 400


def test_every_error_has_a_status():
    def leaves(kind):
        below = kind.__subclasses__()
        return {leaf for child in below for leaf in leaves(child)} if below else {kind}

    assert leaves(errors.GatewayError) == set(errors.STATUS)
