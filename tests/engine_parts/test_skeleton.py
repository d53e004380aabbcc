"""Units come and go; nothing is copied; memory that nobody wrote is never read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoints import FAMILIES
from engine_parts.local_pipeline import CPU, LocalPipeline, Slice, weights
from forebay_worker.engine.attention import Gather, Step, attend, positions
from forebay_worker.engine.kv import KvStore
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.model.skeleton import NotResident, Skeleton

Tiny = Callable[[str], Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_filled_by_the_very_tensors_and_emptied_again(family: str, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(f"file://{tiny(family)}", "auto")
    skeleton = Skeleton.build(checkpoint)
    for unit in range(skeleton.layers + 2):
        tensors = weights(checkpoint, unit)
        skeleton.fill(unit, tensors)
        placed = {place.module._parameters[place.attribute] for p in skeleton._places[unit].values() for place in p}
        assert {weight.data_ptr() for weight in placed if weight is not None} == {
            tensor.data_ptr() for tensor in tensors.values()
        }
    modules = {place.module for unit in skeleton._places for places in unit.values() for place in places}
    modules |= {skeleton._rotary} - {None}
    everything = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in everything)
    assert skeleton.resident == set(range(skeleton.layers + 2))
    skeleton.clear(1)
    skeleton.clear(1)
    assert all(place.module._parameters[place.attribute].is_meta for (place,) in skeleton._places[1].values())
    with pytest.raises(NotResident, match="unit 1 is not resident"):
        skeleton.layer(0, torch.zeros(1, 1, skeleton.hidden_size), None)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_whole(tiny: Tiny) -> None:
    checkpoint = open_checkpoint(f"file://{tiny('llama')}", "auto")
    skeleton = Skeleton.build(checkpoint)
    tensors = weights(checkpoint, 1)
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=r"unit 1: tensors missing .*up_proj"):
        skeleton.fill(1, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(ValueError, match=r"must be torch\.float32"):
        skeleton.fill(1, tensors | {name: tensors[name].to(torch.bfloat16)})
    with pytest.raises(ValueError, match="unknown"):
        skeleton.fill(2, tensors)
    assert not skeleton.resident
    with pytest.raises(NotResident):
        skeleton.token_rows(torch.tensor([1]))


def test_a_config_that_transformers_reads_in_another_way_is_refused(tiny: Tiny) -> None:
    """Or the first unit to land would be the one to say so."""
    checkpoint = open_checkpoint(f"file://{tiny('llama')}", "auto")
    config = {name: value for name, value in checkpoint.config.items() if name != "num_key_value_heads"}
    ours = replace(checkpoint.architecture, defaults=(("num_key_value_heads", 2),))
    with pytest.raises(ValueError, match=r"k_proj\.weight: .* make it \[32, 64\], transformers \[64, 64\]"):
        Skeleton.build(replace(checkpoint, architecture=ours, config=config))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("rows", [1, 4, 15, 16])
def test_logits_do_not_depend_on_how_many_rows_are_judged_together(family: str, rows: int, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(f"file://{tiny(family)}", "auto")
    skeleton = Skeleton.build(checkpoint)
    last = skeleton.layers + 1
    skeleton.fill(last, weights(checkpoint, last))
    hidden = torch.randn(rows, skeleton.hidden_size, generator=torch.Generator().manual_seed(5))
    together = skeleton.logits(hidden)
    assert list(together.shape) == [rows, checkpoint.model.vocab_size]
    torch.testing.assert_close(together, torch.cat([skeleton.logits(row) for row in hidden.split(1)]))


# In a process of its own, as a zygote is: one that computed in a team of threads cannot be forked.
FORKING = """
import os, sys
import torch
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.model.skeleton import Skeleton

checkpoint = open_checkpoint(f"file://{sys.argv[1]}", "auto")
skeleton = Skeleton.build(checkpoint)
child = os.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(skeleton.resident))
else:
    from safetensors import safe_open
    torch.set_num_threads(2)
    head = skeleton.layers + 1
    tensors = {}
    for part in checkpoint.tensors[head]:
        with safe_open(part.file, "pt") as file:
            tensors[part.name] = file.get_tensor(part.name)
    skeleton.fill(head, tensors)
    logits = skeleton.logits(torch.ones(256, skeleton.hidden_size))
    os._exit(0 if logits.shape[0] == 256 and bool(logits.isfinite().all()) else 1)
"""


def test_built_before_a_fork_it_works_after_it(tiny: Tiny) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORKING, str(tiny("qwen2"))], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout.split() == ["0", "0"], f"the child's status, and the units that the parent holds: {ran.stderr}"


def poison(store: KvStore) -> None:
    for layer in store.layers:
        for tensor in store.layer(layer):
            tensor.fill_(torch.nan)


def test_memory_that_nobody_wrote_is_never_read(tiny: Tiny) -> None:
    pipeline = LocalPipeline(tiny("llama"), 2, blocks=8, block_tokens=4)
    for store in pipeline.stores:
        poison(store)
    slices = [Slice(0, 6, (5, 2)), Slice(0, 5, (3, 4)), Slice(0, 1, (7,))]
    assert pipeline.step(slices, range(12)).isfinite().all()
    slices = [Slice(6, 1, (5, 2)), Slice(5, 2, (3, 4)), Slice(1, 1, (7,))]
    assert pipeline.step(slices, range(4)).isfinite().all()


@pytest.mark.parametrize("window", [None, 6])
def test_decoding_together_is_decoding_one_by_one(window: int | None) -> None:
    """What a GPU does in one launch, on poisoned memory, beside what the CPU does slice by slice."""
    generator = torch.Generator().manual_seed(3)
    blocks = [(9, 1, 4), (2,), (5, 6, 7, 8), (0, 3)]
    history = [Slice(0, length, table) for length, table in zip((10, 1, 15, 6), blocks, strict=True)]
    mixed = [Slice(10, 1, blocks[0]), Slice(1, 1, blocks[1]), Slice(15, 1, blocks[2]), Slice(6, 1, blocks[3])]
    answers = []
    for gather in (Gather(0, 0), Gather(12, 100), Gather(100, 100), Gather(100, 25)):
        store = KvStore(range(1), 10, 4, 2, 8, torch.float32, CPU)
        poison(store)
        generator.manual_seed(3)
        for slices in (history, mixed, [Slice(11, 1, blocks[0]), Slice(2, 2, blocks[1]), Slice(7, 1, blocks[3])]):
            tokens = sum(part.length for part in slices)
            query = torch.randn(tokens, 6, 8, generator=generator)
            key, value = torch.randn(2, tokens, 2, 8, generator=generator)
            step = Step(positions(slices, CPU), slices, store, gather=gather)
            answer = attend(query, key, value, 0, None, window, step)
        answers.append(answer)
    assert answers[0].shape == (4, 6, 8)
    for answer in answers[1:]:
        torch.testing.assert_close(answers[0], answer)


def test_a_store_takes_no_memory_before_it_is_written() -> None:
    before = _resident()
    store = KvStore(range(4), 4096, 16, 8, 64, torch.float32, CPU)
    assert store.nbytes == 4 * 2 * 4096 * 16 * 8 * 64 * 4
    assert _resident() - before < store.nbytes // 20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_positions_and_slices_must_agree() -> None:
    store = KvStore(range(1), 4, 4, 1, 8, torch.float32, CPU)
    with pytest.raises(ValueError, match="3 positions for 2 tokens of 1 slices"):
        Step(torch.arange(3), [Slice(0, 2, (1,))], store)
