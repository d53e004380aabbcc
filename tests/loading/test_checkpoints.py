"""A folder is opened as the model it is, or refused with one clear sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import checkpoints
from forebay_api.model import UnitKind
from forebay_worker.load import shards
from forebay_worker.load.checkpoint import CheckpointError, open_checkpoint
from forebay_worker.load.safetensors import read_header


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def split(folder: Path) -> Path:
    """Two shards and their index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_every_byte_of_every_tensor_belongs_to_exactly_one_unit(tiny: Callable[[str], Path], family: str) -> None:
    folder = tiny(family)
    checkpoint = open_checkpoint(folder.as_uri())
    stored = {(entry.name, entry.offset, entry.nbytes) for entry in read_header(folder / "model.safetensors").entries}
    claimed = [(held.name, held.offset, held.nbytes) for unit in checkpoint.tensors for held in unit]
    assert sorted(claimed) == sorted(stored)
    assert checkpoint.model.link_bytes == sum(nbytes for _, _, nbytes in stored)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_units_are_embedding_layers_head(tiny: Callable[[str], Path], family: str) -> None:
    model = open_checkpoint(tiny(family).as_uri()).model
    kinds = [unit.kind for unit in model.units]
    assert kinds == [UnitKind.EMBEDDING, *[UnitKind.LAYER] * model.layers, UnitKind.HEAD]
    assert [unit.index for unit in model.units] == list(range(model.layers + 2))
    assert model.units[0].parameters == 0
    assert all(unit.link_bytes == unit.resident_bytes for unit in model.units)


@pytest.mark.parametrize(
    ("family", "tied", "first_unit"), [("qwen2", True, 0), ("opt", True, 131584), ("llama", False, 131072)]
)
def test_a_tied_matrix_belongs_to_the_last_unit(
    tiny: Callable[[str], Path], family: str, tied: bool, first_unit: int
) -> None:
    checkpoint = open_checkpoint(tiny(family).as_uri())
    assert checkpoint.model.tied is tied
    assert checkpoint.model.units[0].link_bytes == first_unit
    assert (checkpoint.tables["tokens"] in checkpoint.tensors[-1]) is tied
    assert ("positions" in checkpoint.tables) is (family == "opt")


def test_the_real_model_is_what_it_is_known_to_be(smollm2: Path) -> None:
    model = open_checkpoint(smollm2.as_uri()).model
    assert (model.architecture, model.dtype, model.layers, model.tied) == ("LlamaForCausalLM", "float32", 30, True)
    assert (model.link_bytes, model.max_model_len, model.vocab_size) == (538060032, 8192, 49152)
    assert model.kv_bytes_per_token_per_layer == 2 * 3 * 64 * 4


def test_a_dtype_halves_what_stays_and_not_what_crosses(tiny: Callable[[str], Path]) -> None:
    stored, half = (open_checkpoint(tiny("llama").as_uri(), dtype).model for dtype in ("auto", "bfloat16"))
    assert (stored.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.link_bytes == stored.link_bytes == stored.resident_bytes == 2 * half.resident_bytes
    assert half.kv_bytes_per_token_per_layer * 2 == stored.kv_bytes_per_token_per_layer
    assert half.backbone != stored.backbone


def test_shards_are_one_checkpoint(copy: Callable[[str], Path]) -> None:
    folder = copy("qwen3")
    whole = open_checkpoint(folder.as_uri()).model
    parts = open_checkpoint(split(folder).as_uri())
    assert parts.model.units == whole.units
    assert parts.model.backbone != whole.backbone
    assert {held.file.name for unit in parts.tensors for held in unit} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_older_names_and_computed_buffers_are_understood(copy: Callable[[str], Path]) -> None:
    folder = copy("gpt_neox")
    units = open_checkpoint(folder.as_uri()).model.units

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
        tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
        tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(4, dtype=torch.bool)

    checkpoint = open_checkpoint(change(folder, edit).as_uri())
    assert checkpoint.model.units == units
    assert "lm_head.weight" in {held.name for held in checkpoint.tensors[-1]}


def test_a_duplicate_of_the_tied_matrix_is_not_loaded(copy: Callable[[str], Path]) -> None:
    folder = copy("qwen2")
    units = open_checkpoint(folder.as_uri()).model.units
    change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert open_checkpoint(folder.as_uri()).model.units == units


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_of_its_own_counts_more_than_a_config_that_ties(copy: Callable[[str], Path], dtype: torch.dtype) -> None:
    folder = copy("qwen2")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).to(dtype)

    checkpoint = open_checkpoint(change(folder, edit).as_uri())
    assert not checkpoint.model.tied
    assert "lm_head.weight" in {held.name for held in checkpoint.tensors[-1]}
    assert [held.name for held in checkpoint.tensors[0]] == ["model.embed_tokens.weight"]


def test_the_key_follows_content_config_and_age(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    keys = [open_checkpoint(folder.as_uri()).model.backbone]
    assert len(keys[0]) == 16
    assert open_checkpoint(folder.as_uri()).model.backbone == keys[0]
    os.utime(folder / "model.safetensors", ns=(1, 1))
    keys.append(open_checkpoint(folder.as_uri()).model.backbone)
    checkpoints.edit_config(folder, rms_norm_eps=1e-4)
    keys.append(open_checkpoint(folder.as_uri()).model.backbone)
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
    ],
)
def test_the_key_follows_what_text_is_to_the_model(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("llama")
    before = open_checkpoint(folder.as_uri()).model.backbone
    (folder / name).write_text("{}")
    assert open_checkpoint(folder.as_uri()).model.backbone != before


def test_a_sliding_window_bounds_the_context(copy: Callable[[str], Path]) -> None:
    folder = copy("mistral")
    checkpoints.edit_config(folder, sliding_window=128)
    assert open_checkpoint(folder.as_uri()).model.max_model_len == 128


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def drop_norm(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("model.norm.weight"))


def wrong_shape(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))


def stray_bias(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))


def eight_bits(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))


def missing_shard(folder: Path) -> None:
    (split(folder) / "model-00002-of-00002.safetensors").unlink()


def lying_index(folder: Path) -> None:
    file = split(folder) / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    index["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"
    file.write_text(json.dumps(index))


def escaping_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))


def twice(folder: Path) -> None:
    split(folder)
    file = folder / "model-00002-of-00002.safetensors"
    first = load_file(folder / "model-00001-of-00002.safetensors")
    save_file({**load_file(file), **first}, file)


def many_files(folder: Path) -> None:
    index = {"weight_map": {f"t{number}": f"m{number}.safetensors" for number in range(1025)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def generation(folder: Path, ends: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


@pytest.mark.parametrize(
    ("damage", "reason", "says"),
    [
        (truncate, "InvalidCheckpoint", "truncated"),
        (pickle_only, "InvalidCheckpoint", "pickled weights .* convert them to safetensors"),
        (drop_norm, "InvalidCheckpoint", "tensor model.norm.weight of LlamaForCausalLM is missing"),
        (wrong_shape, "InvalidCheckpoint", r"model.norm.weight has shape \[3\]; config.json makes it \[64\]"),
        (stray_bias, "InvalidCheckpoint", "q_proj.bias has no place in LlamaForCausalLM"),
        (eight_bits, "UnsupportedArchitecture", "model.norm.weight has dtype I8; supported: F32, BF16, F16"),
        (missing_shard, "InvalidCheckpoint", "index names model-00002-of-00002.safetensors, which is not there"),
        (lying_index, "InvalidCheckpoint", "the index says .* but it is not"),
        (escaping_index, "InvalidCheckpoint", "is not the name of a file beside it"),
        (twice, "InvalidCheckpoint", "is in model-00001-of-00002.safetensors and in model-00002"),
        (lambda folder: (folder / "config.json").unlink(), "ArtifactNotFound", "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "InvalidCheckpoint", "not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "InvalidCheckpoint", "not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "ArtifactNotFound", "no safetensors file"),
        (
            lambda folder: checkpoints.edit_config(folder, architectures=["BertModel"]),
            "UnsupportedArchitecture",
            "BertModel.*Qwen2",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, architectures=None),
            "UnsupportedArchitecture",
            "supported: LlamaFor",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, hidden_size="64"),
            "InvalidCheckpoint",
            "hidden_size is '64'; must be",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, num_hidden_layers=None),
            "InvalidCheckpoint",
            "num_hidden_layers is miss",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, num_key_value_heads=3),
            "InvalidCheckpoint",
            "num_key_value_heads is 3; must divide num_attention_heads, ",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, num_hidden_layers=1_000_000_000),
            "InvalidCheckpoint",
            "num_hidden_layers is 1000000000; at most 512",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, num_hidden_layers=512),
            "InvalidCheckpoint",
            "num_hidden_layers is 512, but the files have [0-9] layers",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, max_position_embeddings=1 << 40),
            "InvalidCheckpoint",
            "max_position_embeddings is 1099511627776; at most 2147483647",
        ),
        (many_files, "InvalidCheckpoint", "names 1025 files; at most 1024"),
        (
            lambda folder: checkpoints.edit_config(folder, head_dim=15),
            "InvalidCheckpoint",
            "head_dim is 15; must be even",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, eos_token_id=512),
            "InvalidCheckpoint",
            "config.json: eos_token_id has 512; must be whole numbers from 0 and below vocab_size, 512",
        ),
        (lambda folder: generation(folder, ["x"]), "InvalidCheckpoint", "eos_token_id has 'x'; must be whole"),
        (lambda folder: generation(folder, -1000000000), "InvalidCheckpoint", "eos_token_id has -1000000000; must"),
        (lambda folder: generation(folder, [1, True]), "InvalidCheckpoint", "eos_token_id has True; must"),
        (
            lambda folder: checkpoints.edit_config(folder, quantization_config={"bits": 4}),
            "UnsupportedArchitecture",
            "quantised",
        ),
        (
            lambda folder: checkpoints.edit_config(folder, rope_parameters={"rope_type": "dynamic"}),
            "UnsupportedArchitecture",
            "rope type 'dynamic'",
        ),
        (
            lambda folder: checkpoints.edit_config(
                folder, rope_parameters={"rope_type": "default"}, rope_scaling={"type": "dynamic", "factor": 2}
            ),
            "UnsupportedArchitecture",
            "rope type 'dynamic' is not supp",
        ),
        (
            lambda folder: checkpoints.edit_config(
                folder, rope_parameters={"full_attention": {"rope_type": "longrope"}}
            ),
            "UnsupportedArchitecture",
            "rope type 'longrope'",
        ),
    ],
)
def test_damage_is_named(copy: Callable[[str], Path], damage: Callable[[Path], object], reason: str, says: str) -> None:
    folder = copy("llama")
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as refused:
        open_checkpoint(folder.as_uri())
    assert refused.value.reason == reason
    assert str(folder) in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("limit", "most", "says"),
    [
        ("HEADERS_BYTES", 3000, "header of [0-9]+ bytes; [0-9]+ are left of what a model's headers may have"),
        ("MOST_TENSORS", 20, "more than 20 tensors with those of the files before it"),
    ],
)
def test_headers_of_all_files_together_are_bounded(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, limit: str, most: int, says: str
) -> None:
    folder = split(copy("llama"))
    lengths = [len(read_header(file).raw) for file in folder.glob("*.safetensors")]
    assert max(lengths) < 3000 < sum(lengths), "each alone would pass"
    open_checkpoint(folder.as_uri())
    monkeypatch.setattr(shards, limit, most)
    with pytest.raises(CheckpointError, match=f"model-00002-of-00002.safetensors: {says}") as refused:
        open_checkpoint(folder.as_uri())
    assert refused.value.reason == "InvalidCheckpoint"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file:///no/such/folder", "/no/such/folder: no such folder"),
        ("gs://org/model", "can be only file:///absolute/path, hf://"),
        ("file://models/x", "only file:///"),
        ("/models/x", "only file:///"),
    ],
)
def test_what_is_not_a_folder_is_not_found(uri: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as refused:
        open_checkpoint(uri)
    assert refused.value.reason == "ArtifactNotFound"


def test_a_dtype_that_nobody_knows_is_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="dtype 'int4': must be auto, float32, bfloat16, float16"):
        open_checkpoint(tiny("llama").as_uri(), "int4")


def test_a_folder_with_a_space_is_found(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("llama").rename(tmp_path / "my model")
    assert "%20" in folder.as_uri()
    assert open_checkpoint(folder.as_uri()).folder == folder


def test_inspecting_imports_no_torch(tiny: Callable[[str], Path]) -> None:
    code = (
        "import sys; from forebay_worker.load.checkpoint import open_checkpoint; "
        f"open_checkpoint({tiny('opt').as_uri()!r}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
