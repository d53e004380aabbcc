"""What a request is promised: its own tokens, each once, whatever is preempted, cancelled, resumed or shared."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.rig import (
    PATIENCE,
    SEEDED,
    Node,
    Reader,
    Rig,
    cut,
    formed,
    greedy,
    idle,
    opened,
    prompts,
    text_of,
    until,
)
from forebay_api.model import Epoch
from forebay_worker.engine.request import Ended, Resumed
from forebay_worker.engine.sample import Params
from forebay_worker.formation import Phase

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("stages", [1, 2])
def test_preempted_requests_lose_nothing(rig: Rig, tiny: Tiny, stages: int) -> None:
    """Twelve blocks of 16 tokens for five answers that want about twenty."""
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, stages, blocks=12, flight=stages)
    asked = prompts(folder, 5, seed=9, longest=30)
    readers = [rig.ask(nodes[-1], epoch, prompt, max_tokens=50) for prompt in asked]
    for reader in readers:
        assert reader.wait().tokens() == greedy(folder, reader.request.prompt, 50)
    assert nodes[-1].executor.counters.preemptions > 0
    until(lambda: idle(nodes[-1], epoch), "all blocks are free")


def test_a_cancelled_request_frees_its_blocks_within_one_step(
    rig: Rig, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    head, model = nodes[1], opened(folder).model
    stays = rig.ask(head, epoch, (1, 2, 3), max_tokens=60)
    leaves = rig.ask(head, epoch, (7,) * 200, max_tokens=0)
    leaves.read(3)
    skeleton = head.skeletons[model.backbone]
    real, held, layers = skeleton.layer, threading.Event(), threading.Semaphore(0)

    def allowed(*args: Any) -> torch.Tensor:
        held.set()
        assert layers.acquire(timeout=PATIENCE)
        return real(*args)

    monkeypatch.setattr(skeleton, "layer", allowed)
    assert held.wait(PATIENCE), "a step is under way"
    steps = head.executor.counters.steps
    head.executor.cancel(leaves.request.request_id)
    layers.release(len([unit for unit in cut(folder, nodes)[1].stage.units if model.units[unit].kind == "layer"]))
    assert leaves.wait().ended is not None
    assert leaves.ended.reason == "cancelled"
    until(lambda: used_blocks(head, epoch) <= 4, "only those of 63 tokens are taken")
    assert head.executor.counters.steps <= steps + 1
    layers.release(10**6)
    assert stays.wait().tokens() == greedy(folder, (1, 2, 3), 60)
    until(lambda: idle(head, epoch), "all blocks are free")
    assert head.executor.counters.cancelled == 1


def used_blocks(node: Node, epoch: Epoch) -> int:
    status = node.status(epoch)
    assert status is not None
    return status.kv_blocks - status.kv_blocks_free


def test_a_reader_that_fails_is_cancelled_alone(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    stays = rig.ask(node, epoch, (4, 5), max_tokens=30)

    def gone(event: object) -> None:
        raise RuntimeError("the loop is closed")

    node.executor.submit(epoch, replace(stays.request, request_id="gone"), gone)
    assert stays.wait().tokens() == greedy(folder, (4, 5), 30)
    until(lambda: idle(node, epoch), "all blocks are free")
    assert formed(node, epoch)


@pytest.mark.parametrize("params", [Params(), SEEDED], ids=["greedy", "seeded"])
def test_resumed_from_any_point_it_goes_on_the_same(rig: Rig, tiny: Tiny, params: Params) -> None:
    folder = tiny("qwen2")
    nodes, epoch = rig.pipeline(folder, 2)
    (prompt,) = prompts(folder, 1, seed=4)
    wanted: dict[str, Any] = {"max_tokens": 24, "params": params}
    whole = rig.ask(nodes[1], epoch, prompt, **wanted).wait()
    for had in (1, 7, 23):
        resumed = {0: Resumed(tuple(whole.tokens()[:had]))}
        again = rig.ask(nodes[1], epoch, prompt, resumed=resumed, **wanted).wait()
        assert whole.tokens() == whole.tokens()[:had] + again.tokens()
        assert whole.text() == "".join(event.text for event in whole.events[0][:had]) + again.text()
        assert again.finish() == "length"


def test_what_came_with_all_its_tokens_is_closed(rig: Rig, tiny: Tiny) -> None:
    """Whoever brings it does not know that no more fits here, or that its last token was the last."""
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1, blocks=2)
    had = tuple(rig.ask(node, epoch, (1,) * 30, max_tokens=0).wait().tokens())
    assert len(had) == 2
    full = rig.ask(node, epoch, (1,) * 30, max_tokens=0, resumed={0: Resumed(had)}).wait()
    assert [(event.index, event.token, event.finish) for event in full.events[0]] == [(1, had[1], "length")]
    told = rig.ask(node, epoch, (1,) * 30, max_tokens=0, resumed={0: Resumed(had, finished=True)}).wait()
    assert not told.events.get(0)
    end = min(text_of(folder).eos)
    ended = rig.ask(node, epoch, (1,) * 30, max_tokens=0, ignore_eos=False, resumed={0: Resumed((end,))}).wait()
    assert [(event.index, event.token, event.finish) for event in ended.events[0]] == [(0, end, "stop")]


def test_a_stop_string_ends_and_is_not_shown(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    (prompt,) = prompts(folder, 1, seed=8)
    text = rig.ask(node, epoch, prompt, max_tokens=40).wait().text()
    stop = text[len(text) // 2 :][:5]
    wanted: dict[str, Any] = {"max_tokens": 40, "stop": ("never said", stop)}
    reader = rig.ask(node, epoch, prompt, **wanted).wait()
    assert reader.text() == text[: text.index(stop)]
    assert reader.finish() == "stop"
    for had in range(1, len(reader.tokens())):
        resumed = {0: Resumed(tuple(reader.tokens()[:had]))}
        again = rig.ask(node, epoch, prompt, resumed=resumed, **wanted).wait()
        assert reader.tokens() == reader.tokens()[:had] + again.tokens()
        assert "".join(event.text for event in reader.events[0][:had]) + again.text() == reader.text()
        assert again.finish() == "stop"


def test_a_stop_string_counts_after_min_tokens_only(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    (prompt,) = prompts(folder, 1, seed=8)
    whole = rig.ask(node, epoch, prompt, max_tokens=40).wait()
    stop = whole.text()[2:5]
    wanted: dict[str, Any] = {"max_tokens": 40, "stop": (stop,), "params": Params(min_tokens=20)}
    reader = rig.ask(node, epoch, prompt, **wanted).wait()
    assert len(reader.tokens()) > 20
    assert reader.text().startswith(whole.text()[:10])
    for had in (5, 19, 20):
        resumed = {0: Resumed(tuple(reader.tokens()[:had]))}
        again = rig.ask(node, epoch, prompt, resumed=resumed, **wanted).wait()
        assert reader.tokens() == reader.tokens()[:had] + again.tokens()
        assert "".join(event.text for event in reader.events[0][:had]) + again.text() == reader.text()


def test_an_end_token_is_not_shown_and_can_be_ignored(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    end = min(text_of(folder).eos)
    biased = Params(logit_bias=((end, 100.0),), min_tokens=4)
    ended = rig.ask(node, epoch, (5, 6, 7), max_tokens=20, params=biased, ignore_eos=False).wait()
    assert len(ended.tokens()) == 5, "not before min_tokens are out"
    assert ended.tokens()[-1] == end
    assert ended.finish() == "stop"
    assert ended.events[0][-1].text == "" or "�" in ended.events[0][-1].text
    ignored = rig.ask(node, epoch, (5, 6, 7), max_tokens=20, params=biased).wait()
    assert len(ignored.tokens()) == 20
    assert ignored.finish() == "length"


def test_choices_share_their_prompt(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    prompt = (7,) * 40
    params = Params(temperature=1.0, seed=5)
    reader = rig.ask(nodes[1], epoch, prompt, n=3, max_tokens=12, params=params).wait()
    assert len({tuple(reader.tokens(choice)) for choice in range(3)}) == 3
    assert nodes[1].executor.counters.prefix_hits == 2 * 32, "two blocks of 16, for two of three"
    finished = {1: Resumed(tuple(reader.tokens(1)), finished=True), 2: Resumed(tuple(reader.tokens(2)[:5]))}
    again = rig.ask(nodes[1], epoch, prompt, n=3, max_tokens=12, params=params, resumed=finished).wait()
    assert again.tokens(0) == reader.tokens(0)
    assert not again.tokens(1)
    assert reader.tokens(2)[:5] + again.tokens(2) == reader.tokens(2)
    until(lambda: idle(nodes[1], epoch), "all blocks are free")


def test_a_prefix_is_computed_once(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("qwen3")
    (node,), epoch = rig.pipeline(folder, 1)
    prompt = tuple(range(1, 51))
    first = rig.ask(node, epoch, prompt, max_tokens=5).wait()
    second = rig.ask(node, epoch, prompt, max_tokens=5).wait()
    assert second.tokens() == first.tokens() == greedy(folder, prompt, 5)
    assert [reader.events[0][-1].cached_tokens for reader in (first, second)] == [0, 48]


def test_a_prefix_is_not_shared_between_functions(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("qwen3")
    (node,), epoch = rig.pipeline(folder, 1)
    prompt = tuple(range(1, 51))
    asked = ("a/f", "b/f", "a/f", "b/f")
    readers = [rig.ask(node, epoch, prompt, max_tokens=5, function=function).wait() for function in asked]
    assert [reader.tokens() for reader in readers] == [greedy(folder, prompt, 5)] * 4
    assert [reader.events[0][-1].cached_tokens for reader in readers] == [0, 0, 48, 48]


def test_logprobs_tell_the_choice_and_its_rivals(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    reader = rig.ask(node, epoch, (3, 1), max_tokens=4, params=Params(logprobs=True, top_logprobs=3)).wait()
    for event in reader.events[0]:
        assert event.top[0].token == event.token
        assert event.top[0].logprob == pytest.approx(event.logprob)
        assert [top.logprob for top in event.top] == sorted((top.logprob for top in event.top), reverse=True)
        assert sum(math.exp(top.logprob) for top in event.top) < 1
        assert event.raw == text_of(folder).token_bytes(event.token)
        assert event.piece == event.raw.decode(errors="replace")


def test_as_many_tokens_as_fit(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1, length=40)
    assert len(rig.ask(node, epoch, (1,) * 30, max_tokens=0).wait().tokens()) == 10
    (node,), epoch = rig.pipeline(folder, 1, blocks=2)
    assert len(rig.ask(node, epoch, (1,) * 30, max_tokens=0).wait().tokens()) == 2


@pytest.mark.parametrize(
    ("prompt", "fields", "reason", "says"),
    [
        ((1,) * 64, {}, "context_length_exceeded", "64 tokens; at most 63"),
        ((1,) * 60, {"max_tokens": 5}, "context_length_exceeded", "max_tokens: is 5"),
        ((), {}, "invalid_request", "prompt: is empty"),
        ((1, 10**6), {}, "invalid_request", "token 1000000"),
        ((1,), {"n": 0}, "invalid_request", "n: is 0"),
        ((1,), {"stop": ("",)}, "invalid_request", "stop"),
        ((1,), {"params": Params(temperature=math.nan)}, "invalid_request", "temperature"),
        ((1,), {"params": Params(logit_bias=((3, math.inf),))}, "invalid_request", "logit_bias of 3"),
        ((1,), {"params": Params(repetition_penalty=0.0)}, "invalid_request", "repetition_penalty"),
        ((1,), {"resumed": {0: Resumed((-1,))}}, "invalid_request", "resumed: token -1"),
        ((1,), {"n": 64}, None, ""),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    rig: Rig, tiny: Tiny, prompt: Sequence[int], fields: dict[str, Any], reason: str | None, says: str
) -> None:
    node = rig.node()
    epoch = rig.form(tiny("llama"), [node], length=64)
    reader = rig.ask(node, epoch, prompt, **fields)
    if reason is None:
        node.land(tiny("llama"))
        assert reader.wait().ended == Ended()
    else:
        assert reader.wait().prompt_tokens is None
        assert reader.ended is not None
        assert reader.ended.reason == reason
        assert says in reader.ended.message


@pytest.mark.parametrize(
    ("prompt", "had", "max_tokens", "made"),
    [(60, 2, 5, 2), (60, 4, 0, 1), (60, 9, 20, 1)],
    ids=["some", "had as many as fit", "had more"],
)
def test_what_was_begun_in_more_room_ends_sooner(
    rig: Rig, tiny: Tiny, prompt: int, had: int, max_tokens: int, made: int
) -> None:
    (node,), epoch = rig.pipeline(tiny("llama"), 1, length=64)
    resumed = {0: Resumed((1,) * had)}
    reader = rig.ask(node, epoch, (1,) * prompt, max_tokens=max_tokens, resumed=resumed).wait()
    assert (len(reader.events[0]), reader.finish()) == (made, "length")


def test_a_prompt_that_had_more_room_elsewhere_is_sent_on(rig: Rig, tiny: Tiny) -> None:
    (node,), epoch = rig.pipeline(tiny("llama"), 1, length=64)
    ended = rig.ask(node, epoch, (1,) * 64, max_tokens=0, resumed={0: Resumed((1,))}).wait().ended
    assert ended is not None
    assert ended.reason == "head_full"


def test_the_waiting_room_is_bounded(rig: Rig, tiny: Tiny) -> None:
    node = rig.node()
    epoch = rig.form(tiny("llama"), [node])
    readers = [rig.ask(node, epoch, (1, 2), n=64) for _ in range(10)]
    assert readers[-1].wait().ended is not None
    assert readers[-1].ended.reason == "head_full"
    for reader in readers[:-1]:
        node.executor.cancel(reader.request.request_id)


def test_draining_finishes_what_runs_and_takes_nothing_new(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    nodes, epoch = rig.pipeline(folder, 2)
    reader = rig.ask(nodes[1], epoch, (1, 2), max_tokens=30)
    reader.read(2)
    for node in nodes:
        node.executor.drain(epoch)
    refused = rig.ask(nodes[1], epoch, (1, 2)).wait()
    assert refused.ended is not None
    assert refused.ended.reason == "pipeline_draining"
    assert reader.wait().tokens() == greedy(folder, (1, 2), 30)
    until(lambda: formed(nodes[1], epoch, Phase.DRAINED), "the head is drained")
    for node in reversed(nodes):
        node.executor.dissolve(epoch, "drained")
    until(lambda: not nodes[0].executor.pipelines() and not nodes[1].executor.pipelines(), "both are gone")
    assert [node.device.memory.used for node in nodes] == [
        sum(
            opened(folder).model.units[unit].resident_bytes
            for unit in node.skeletons[opened(folder).model.backbone].resident
        )
        for node in nodes
    ]


def test_a_request_that_came_before_it_keeps_its_pipeline(rig: Rig, tiny: Tiny) -> None:
    """Whoever wants it gone has looked before the request was told of."""
    folder = tiny("llama")
    (node,), epoch = rig.pipeline(folder, 1)
    reader = rig.ask(node, epoch, (1, 2), max_tokens=30)
    node.executor.dissolve_unasked(epoch, "nobody asks")
    assert reader.wait().tokens() == greedy(folder, (1, 2), 30)
    until(lambda: idle(node, epoch), "it has ended")
    node.executor.dissolve_unasked(epoch, "nobody asks")
    until(lambda: not node.executor.pipelines(), "it is gone")


def test_a_step_of_a_request_that_was_left_keeps_no_pipeline(rig: Rig, tiny: Tiny) -> None:
    """It waits for weights that may never come."""
    node = rig.node()
    epoch = rig.form(tiny("llama"), [node])
    reader = rig.ask(node, epoch, (1, 2))
    until(lambda: node.executor.counters.parked, "its step is parked")
    node.executor.cancel(reader.request.request_id)
    node.executor.dissolve_unasked(epoch, "nobody asks")
    until(lambda: not node.executor.pipelines(), "it is gone")


def test_an_unknown_pipeline_is_named(rig: Rig, tiny: Tiny) -> None:
    node = rig.node()
    reader: Reader = rig.ask(node, Epoch(9, 9), (1,)).wait()
    assert reader.ended is not None
    assert reader.ended.reason == "pipeline_unknown"
    assert "9.9" in reader.ended.message
