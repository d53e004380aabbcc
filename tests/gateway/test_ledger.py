"""What requests make the gateway hold is bounded: of one answer, of one function, of one namespace, of all."""

from __future__ import annotations

import pytest

from forebay_api.function import FunctionKey
from forebay_gateway.ask import ID_BYTES, Ask, Kind, Messages, Sampling, Text, TokenIds
from forebay_gateway.errors import QueueFull
from forebay_gateway.ledger import Held, Ledger
from gateway.scripted import CHAT, ask, until

A, B, OTHER = FunctionKey("team", "a"), FunctionKey("team", "b"), FunctionKey("other", "a")


def holding(ledger: Ledger, key: FunctionKey | None, nbytes: int) -> Held:
    held = ledger.open(key)
    held.add(nbytes)
    return held


def test_one_function_has_half_of_it_and_one_namespace_three_quarters() -> None:
    ledger = Ledger(1000)
    with holding(ledger, A, 500) as first, pytest.raises(QueueFull, match="requests of team/a hold 500 bytes"):
        first.add(1)
    with holding(ledger, A, 500), holding(ledger, B, 250) as second:
        with pytest.raises(QueueFull, match="requests of namespace team hold 750 bytes here, and 750 is their limit"):
            second.add(1)
        with holding(ledger, OTHER, 250), pytest.raises(QueueFull, match="1000 is the limit"):
            ledger.open(None).add(1)
    assert (ledger.used, ledger.by_owner) == (0, {})


def test_what_nobody_is_known_to_own_counts_together_until_it_is_somebodys() -> None:
    ledger = Ledger(1000)
    with holding(ledger, None, 400) as first, holding(ledger, None, 100) as second:
        with pytest.raises(QueueFull, match="no function yet"):
            second.add(1)
        first.become(450, A)
        second.add(1)
        with pytest.raises(QueueFull, match="team/a"):
            second.become(51, A)
        assert ledger.used == 450
    assert (ledger.used, ledger.by_owner) == (0, {})


def test_a_prompt_counts_as_what_it_takes() -> None:
    prompts = (Text("x" * 1000), Messages("[]"), TokenIds((1, 2, 3)))
    asked = Ask(Kind.COMPLETION, "tiny", prompts, Sampling())
    assert 1000 + 3 * ID_BYTES < asked.nbytes < 1300 + 3 * ID_BYTES


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": True, "top_logprobs": 20}], ids=["text", "logprobs"])
async def test_an_answer_that_is_too_large_says_what_to_lower(start, logprobs) -> None:
    system = await start(answer_bytes=4000)
    head = await system.head()
    await system.settle(head)
    lower = "stream: true, or for lower n, max_tokens or top_logprobs"
    status, answer, _ = await ask(system, n=64 if not logprobs else 2, **logprobs)
    assert (status, answer["error"]["code"]) == (400, "answer_too_large")
    assert lower in answer["error"]["message"]
    await until(lambda: not head.active)
    status, _, _ = await ask(system, **({"logprobs": True} if logprobs else {}))
    assert status == 200
    body = CHAT | {"stream": True, "n": 64} | logprobs
    async with system.http.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
        assert (await response.text()).endswith("[DONE]\n\n")


async def test_answers_that_are_collected_count_together(start) -> None:
    system = await start(held_bytes=20_000)
    head = await system.head()
    await system.settle(head)
    status, answer, headers = await ask(system, n=64)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (429, "queue_full", "1")
    for _ in range(20):  # what one made it hold is given back
        status, _, _ = await ask(system, n=2)
        assert status == 200
