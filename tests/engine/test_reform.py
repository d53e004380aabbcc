"""Old and new pipelines of one backbone side by side on the same workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import checkpoints
from engine.rig import Rig, cut, formed, greedy, idle, opened, prompts, until
from forebay_worker.engine.request import Resumed
from forebay_worker.formation import Phase

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_running_requests_drain_while_new_ones_take_the_shorter_pipeline(rig: Rig, tiny: Tiny, family: str) -> None:
    folder = tiny(family)
    nodes, long = rig.pipeline(folder, 3)
    first, second, third = prompts(folder, 3, seed=6)
    old = rig.ask(nodes[2], long, first, max_tokens=60)
    old.read(5)
    held = set(cut(folder, nodes)[2].stage.units)
    short = rig.form(folder, [nodes[2]])  # before the rest has landed there: its steps wait, the old one's do not
    waits = rig.ask(nodes[2], short, second, max_tokens=10)
    old.read(10)
    for node in nodes:
        node.executor.drain(long)
    nodes[2].land(folder, [unit for unit in range(len(opened(folder).model.units)) if unit not in held])
    assert waits.wait().tokens() == greedy(folder, second, 10)
    assert old.wait().tokens() == greedy(folder, first, 60)
    until(lambda: formed(nodes[2], long, Phase.DRAINED), "the old one is drained")
    for node in nodes:
        node.executor.dissolve(long, "a shorter one is there")
    assert rig.ask(nodes[2], short, third, max_tokens=10).wait().tokens() == greedy(folder, third, 10)
    until(lambda: idle(nodes[2], short), "all blocks are free")
    assert [status.epoch for status in nodes[2].executor.pipelines()] == [short]


@pytest.mark.parametrize("dead", [0, 2], ids=["first", "head"])
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_a_request_moves_from_a_broken_pipeline_with_its_tokens(rig: Rig, tiny: Tiny, family: str, dead: int) -> None:
    """What a gateway does: the same request at another head, with what it has; no token twice, none lost."""
    folder = tiny(family)
    nodes, epoch = rig.pipeline(folder, 3)
    (prompt,) = prompts(folder, 1, seed=12)
    first = rig.ask(nodes[2], epoch, prompt, max_tokens=40)
    first.read(9)
    nodes[dead].close()
    had = first.wait().tokens()
    nodes[1].land(folder)
    alone = rig.form(folder, [nodes[1]])
    rest = rig.ask(nodes[1], alone, prompt, max_tokens=40, resumed={0: Resumed(tuple(had))}).wait()
    assert had + rest.tokens() == greedy(folder, prompt, 40)
