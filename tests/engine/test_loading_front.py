"""Serving while units land: steps are parked where something is missing, in order, and hold nobody else up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from engine.rig import Rig, cut, formed, greedy, idle, opened, prompts, until

Tiny = Callable[[str], Path]
TOKENS = 6


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_units_land_in_any_order(rig: Rig, tiny: Tiny, family: str, stages: int) -> None:
    folder = tiny(family)
    nodes = [rig.node() for _ in range(stages)]
    epoch = rig.form(folder, nodes)
    asked = prompts(folder, 8, seed=3)
    readers = [rig.ask(nodes[-1], epoch, prompt, max_tokens=TOKENS) for prompt in asked[:4]]
    until(lambda: sum(node.executor.counters.parked for node in nodes), "the first step is parked")
    todo = [(node, unit) for node, place in zip(nodes, cut(folder, nodes), strict=True) for unit in place.stage.units]
    random.Random(stages).shuffle(todo)
    for turn, (node, unit) in enumerate(todo):
        if turn == len(todo) // 2:
            readers += [rig.ask(nodes[-1], epoch, prompt, max_tokens=TOKENS) for prompt in asked[4:]]
        node.land(folder, [unit])
    for reader in readers:
        assert reader.wait().tokens() == greedy(folder, reader.request.prompt, TOKENS)
    until(lambda: idle(nodes[-1], epoch), "all blocks are free")


@pytest.mark.parametrize(("family", "tied"), [("opt", True), ("gpt_neox", False)])
def test_embedding_rows_are_read_while_the_matrix_is_away(rig: Rig, tiny: Tiny, family: str, tied: bool) -> None:
    """Untied, the matrix never lands at all; tied, it comes with the head, and rows are enough for the layers."""
    folder = tiny(family)
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(folder, nodes)
    units = len(opened(folder).model.units)
    stages = [place.stage for place in cut(folder, nodes)]
    assert opened(folder).model.tied is tied
    (prompt,) = prompts(folder, 1, seed=11)
    reader = rig.ask(nodes[1], epoch, prompt, max_tokens=TOKENS)
    nodes[0].land(folder, [unit for unit in stages[0].units if unit])
    nodes[1].land(folder, [unit for unit in stages[1].units if unit < units - 1])
    until(lambda: nodes[0].executor.counters.steps == 1, "the prompt went through stage 0")
    nodes[1].land(folder, [units - 1])
    assert reader.wait().tokens() == greedy(folder, prompt, TOKENS)
    embeds = nodes[1 if tied else 0].loader
    tokens = [row for table, rows in embeds.rows_asked if table == "tokens" for row in rows]
    assert set(tokens) == set(prompt) | (set() if tied else set(reader.tokens()[:-1]))
    assert len(tokens) == len(set(tokens)), "a row that is known is not read again"


@pytest.mark.parametrize("late", [False, True], ids=["known", "on their way"])
def test_rows_of_a_backbone_that_was_let_go_are_read_again(rig: Rig, tiny: Tiny, late: bool) -> None:
    """Its files may have been damaged, and be others when it comes back under the same key."""
    folder, prompt = tiny("gpt_neox"), (3, 1, 4)
    model = opened(folder).model
    node = rig.node()
    node.loader.rows_held = late
    epoch = rig.form(folder, [node])
    node.land(folder, range(1, len(model.units)))
    reader = rig.ask(node, epoch, prompt, max_tokens=1)
    until(lambda: node.loader.rows_asked, "the rows are asked for")
    if not late:
        reader.wait()
    node.executor.dissolve(epoch, "damaged")
    gone = threading.Event()
    node.executor.drop(model.backbone, (), lambda units: gone.set())
    assert gone.wait(10)
    node.loader.give_rows()
    node.loader.rows_held = False
    node.loader.rows_asked.clear()
    again = rig.form(folder, [node])
    node.land(folder, range(1, len(model.units)))
    assert rig.ask(node, again, prompt, max_tokens=1).wait().tokens() == greedy(folder, prompt, 1)
    assert node.loader.rows_asked == [("tokens", prompt)]


def test_one_function_waits_while_another_is_served(rig: Rig, tiny: Tiny) -> None:
    slow, fast = tiny("llama"), tiny("qwen3")
    node = rig.node()
    waits, serves = rig.form(slow, [node]), rig.form(fast, [node])
    node.land(fast)
    asked, *more = prompts(slow, 3, seed=5)
    parked = rig.ask(node, waits, asked, max_tokens=TOKENS)
    leaves = rig.ask(node, waits, more[0], max_tokens=TOKENS)
    for prompt in prompts(fast, 3):
        assert rig.ask(node, serves, prompt, max_tokens=TOKENS).wait().tokens() == greedy(fast, prompt, TOKENS)
    node.executor.cancel(leaves.request.request_id)
    assert leaves.wait().ended is not None
    assert leaves.ended.reason == "cancelled"
    node.land(slow)
    assert parked.wait().tokens() == greedy(slow, asked, TOKENS)


def test_late_rows_hold_up_their_own_step_only(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    node = rig.node()
    first, second = rig.form(folder, [node]), rig.form(folder, [node])
    node.loader.rows_held = True
    one, two = prompts(folder, 2, seed=2)
    readers = rig.ask(node, first, one, max_tokens=TOKENS), rig.ask(node, second, two, max_tokens=TOKENS)
    until(lambda: len(node.loader.rows_asked) == 2, "both asked for rows")
    node.executor.dissolve(first, "not wanted any more")
    node.land(folder)  # the matrix too: what waits for rows has it all now
    assert readers[1].wait().tokens() == greedy(folder, two, TOKENS)
    assert readers[0].wait().ended is not None
    assert readers[0].ended.reason == "pipeline_gone"
    node.loader.give_rows()


def test_a_long_prompt_follows_the_loading_front_in_one_step(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    nodes = [rig.node(), rig.node()]
    epoch = rig.form(folder, nodes)
    length = opened(folder).model.max_model_len - TOKENS
    assert length > 256, "longer than one step's budget later on"
    prompt = tuple(prompts(folder, 1)[0][:1] * length)
    long = rig.ask(nodes[1], epoch, prompt, max_tokens=TOKENS)
    late = rig.ask(nodes[1], epoch, prompts(folder, 2)[1], max_tokens=TOKENS)
    for node, place in zip(nodes, cut(folder, nodes), strict=True):
        node.land(folder, place.stage.units)
    assert long.wait().tokens() == greedy(folder, prompt, TOKENS)
    assert late.wait().tokens() == greedy(folder, late.request.prompt, TOKENS)
    assert nodes[1].executor.most_in_flight[epoch] == 2
    until(lambda: nodes[0].executor.counters.steps <= 2 * TOKENS, "no more steps than tokens")


def test_steps_overlap_where_stages_compute_apart(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("llama")
    for flight in (1, 2):
        nodes, epoch = rig.pipeline(folder, 2, flight=flight)
        rig.ask(nodes[1], epoch, (1, 2, 3), max_tokens=1).wait()  # the loading front is over
        before = nodes[1].executor.most_in_flight[epoch]
        readers = [rig.ask(nodes[1], epoch, prompt, max_tokens=30) for prompt in prompts(folder, 6)]
        for reader in readers:
            assert reader.wait().tokens() == greedy(folder, reader.request.prompt, 30)
        assert before == 1
        assert nodes[1].executor.most_in_flight[epoch] == flight


def test_units_of_live_pipelines_stay(rig: Rig, tiny: Tiny) -> None:
    folder = tiny("qwen2")
    nodes, epoch = rig.pipeline(folder, 2)
    node, backbone = nodes[0], opened(folder).model.backbone
    until(lambda: formed(node, epoch), "it is formed")
    before = node.device.memory.used
    extra = cut(folder, nodes)[1].stage.first
    node.land(folder, [extra])
    gone: list[frozenset[int]] = []
    node.executor.drop(backbone, (), gone.append)
    until(lambda: gone, "the drop is done")
    mine = set(cut(folder, nodes)[0].stage.units)
    assert extra in gone[0]
    assert not mine & gone[0]
    assert node.device.memory.used == before
    node.executor.dissolve(epoch, "done")
    node.executor.drop(backbone, (), gone.append)
    until(lambda: len(gone) == 2, "the second drop is done")
    assert gone[1] == set(range(len(opened(folder).model.units)))
    assert node.device.memory.used == 0
    assert node.loader.forgotten[-1] == (backbone, None)
