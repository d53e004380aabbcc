"""What a config says of a model, and what it leaves out, is taken as transformers takes it, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import checkpoints
from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint
from forebay_worker.model.registry import ARCHITECTURES, Architecture


@pytest.mark.parametrize("row", ARCHITECTURES.values(), ids=lambda row: row.family)
def test_what_a_config_leaves_out_is_what_transformers_takes(row: Architecture) -> None:
    theirs = CONFIG_MAPPING[row.family].from_dict({})
    said = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "max_position_embeddings")
    dims = row.dims({name: getattr(theirs, name) for name in (*said, row.intermediate_field)})
    assert dims.kv_heads == getattr(theirs, "num_key_value_heads", dims.heads)
    assert dims.head_dim == getattr(theirs, "head_dim", dims.hidden // dims.heads)
    assert dims.window == getattr(theirs, "sliding_window", None)
    assert dims.tied == theirs.tie_word_embeddings


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral"])
def test_heads_that_a_config_leaves_out_are_not_guessed(copy: Callable[[str], Path], family: str) -> None:
    folder = copy(family)
    config = json.loads((folder / "config.json").read_text())
    del config["num_key_value_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"k_proj\.\w+ has shape|num_key_value_heads is"):
        open_checkpoint(folder.as_uri())


@pytest.mark.parametrize(
    ("family", "changes"),
    [("opt", {"num_key_value_heads": 1}), ("gpt_neox", {"head_dim": 2}), ("gpt_neox", {"num_attention_heads": 5})],
)
def test_heads_that_do_not_make_the_hidden_size_are_refused(
    copy: Callable[[str], Path], family: str, changes: dict[str, int]
) -> None:
    folder = copy(family)
    checkpoints.edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match="do not make hidden_size") as refused:
        open_checkpoint(folder.as_uri())
    assert refused.value.reason == "InvalidCheckpoint"


@pytest.mark.parametrize(("field", "value"), [("word_embed_proj_dim", 32), ("do_layer_norm_before", False)])
def test_opt_variants_that_would_be_computed_wrongly_are_refused(
    copy: Callable[[str], Path], field: str, value: object
) -> None:
    folder = copy("opt")
    checkpoints.edit_config(folder, **{field: value})
    with pytest.raises(CheckpointError, match=field) as refused:
        open_checkpoint(folder.as_uri())
    assert refused.value.reason == "UnsupportedArchitecture"
