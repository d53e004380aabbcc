"""Every kind of source gives the same model: bytes by range in the order of loading, and errors that say what to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from artifact.servers import Asked, Lever
from artifact.sources import TOKEN, Sources, access
from forebay_worker.artifact.access import Access, Secret
from forebay_worker.artifact.listing import manifest
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from forebay_worker.load.link import Bucket, Link
from loading.watched import Watched

KINDS = ("hf", "s3", "https")


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(link: Link | None = None) -> Watched:
        started.append(Watched(1 << 30, link))
        return started[-1]

    yield start
    for watched in started:
        watched.loader.close()


def tokens(model: torch.nn.Module) -> list[int]:
    model.generation_config.eos_token_id = None
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    return list(made[0].tolist())


@pytest.mark.parametrize("link", [None, 400e6], ids=["mapped", "paced"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_transformers(
    world: Sources, model: Path, watch: Callable[..., Watched], small_blocks: int, kind: str, link: float | None
) -> None:
    checkpoint = open_checkpoint(world.uri(kind, "m"), "auto", access(kind))
    loaded = watch(Link(Bucket(link), None) if link else None).load(checkpoint)
    expected = load_file(model / "model.safetensors")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    theirs = AutoModelForCausalLM.from_pretrained(model).eval()
    ours = AutoModelForCausalLM.from_config(theirs.config).eval()
    ours.load_state_dict(loaded)
    assert tokens(ours) == tokens(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_what_a_folder_holds(world: Sources, model: Path, kind: str) -> None:
    found = open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model
    local = open_checkpoint(model.as_uri()).model
    assert (found.units, found.architecture, found.dtype) == (local.units, local.architecture, local.dtype)
    assert found.revision
    assert found.backbone != local.backbone


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_is_the_same_on_every_node(
    world: Sources, model: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model
    monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "other"))
    assert open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model == here


def test_only_the_hub_s_word_makes_two_sources_one_backbone(world: Sources, model: Path, tmp_path: Path) -> None:
    """On any other server the tags and sums of somebody else's files are quickly written."""
    names = sorted(path.name for path in model.iterdir())
    printed = subprocess.run(["sha256sum", *names], cwd=model, capture_output=True, check=True).stdout
    for place in ("m", "copy"):
        world.add(place, model)
        world.put_object(f"models/{place}/SHA256SUMS", printed)
        world.web.files[f"/models/{place}/SHA256SUMS"] = printed
    found = {
        kind: {open_checkpoint(world.uri(kind, name), "auto", access(kind)).model.backbone for name in ("m", "copy")}
        for kind in KINDS
    }
    assert {kind: len(keys) for kind, keys in found.items()} == {"hf": 1, "s3": 2, "https": 2}


def test_a_fork_with_another_chat_template_is_another_backbone(world: Sources, model: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    shutil.copytree(model, fork)
    (fork / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    world.add("fork", fork)
    first, second = (open_checkpoint(world.uri("hf", name), "auto", access("hf")).model for name in ("m", "fork"))
    assert first.backbone != second.backbone
    assert open_checkpoint(world.uri("hf", "m")).model.backbone == first.backbone, "also without asking the source"


def test_looking_fetches_no_weights(world: Sources, tiny: Callable[[str], Path]) -> None:
    world.add("qwen", tiny("qwen2"))
    open_checkpoint(world.uri("https", "qwen"), "auto", access("https"))
    assert all(end - begin <= 128 << 10 for begin, end in world.web.weights_asked())


def test_the_order_of_loading_decides_what_is_fetched_first(
    world: Sources, model: Path, watch: Callable[..., Watched], small_blocks: int
) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    world.web.asked.clear()
    watched = watch()
    last = len(checkpoint.tensors) - 1
    watched.loader.hold(checkpoint, (last,), 1)
    watched.until(lambda: len(watched.landed) == 1)
    begin = min(tensor.offset for tensor in checkpoint.tensors[last])
    end = max(tensor.offset + tensor.nbytes for tensor in checkpoint.tensors[last])
    assert all(begin - small_blocks < first and last < end + small_blocks for first, last in world.web.weights_asked())


def test_rows_come_alone_and_all_at_once(world: Sources, model: Path, watch: Callable[..., Watched]) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    world.web.asked.clear()
    rows = watch().rows(checkpoint, "tokens", [500, 3, 4, 500])
    table = load_file(model / "model.safetensors")[checkpoint.tables["tokens"].name]
    assert torch.equal(rows, table[[500, 3, 4, 500]])
    width = table.shape[1] * 4
    assert sorted(end - begin for begin, end in world.web.weights_asked()) == [width, 2 * width]


def test_a_source_that_stalls_holds_up_its_own_model_only(
    world: Sources, model: Path, tiny: Callable[[str], Path], watch: Callable[..., Watched], small_blocks: int
) -> None:
    """Its rows too: other models load and have theirs meanwhile."""
    far, near = open_checkpoint(world.uri("https", "m"), "auto", access("https")), open_checkpoint(tiny("opt").as_uri())
    opened, stalled = threading.Event(), threading.Event()

    def stall(asked: Asked) -> None:
        stalled.set()
        opened.wait(20)

    world.web.lever = Lever(before=stall)
    watched, came = watch(), []
    watched.loader.hold(far, range(len(far.tensors)), len(far.tensors))
    watched.loader.rows(far, "tokens", [3], came.append)
    assert stalled.wait(20)
    watched.loader.hold(near, (1, 2), 0)
    watched.until(lambda: [landed.backbone for landed in watched.landed] == [near.model.backbone] * 2)
    assert len(watched.rows(near, "tokens", [1, 2])) == 2
    assert not came
    opened.set()
    watched.until(lambda: len(watched.landed) == 2 + len(far.tensors))
    assert watched.units[2:] == list(range(len(far.tensors))), "in the order told"
    assert watched.failed == []
    expected = load_file(model / "model.safetensors")
    loaded = {name: tensor for landed in watched.landed[2:] for name, tensor in landed.tensors.items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert watched.loader.bytes_read == far.model.link_bytes + sum(near.model.units[at].link_bytes for at in (1, 2))
    while not came:
        opened.wait(0.01)


def test_what_cannot_be_fetched_fails_once_and_comes_when_it_is_held_again(
    world: Sources, model: Path, watch: Callable[..., Watched], small_blocks: int
) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    world.web.lever = Lever(status=403)
    watched = watch()
    watched.loader.hold(checkpoint, (1, 2), 2)
    watched.until(lambda: bool(watched.failed))
    assert watched.device.memory.used == 0
    world.web.lever = Lever()
    watched.loader.hold(checkpoint, (1, 2), 2)
    watched.until(lambda: watched.units == [1, 2])
    assert len(watched.failed) == 1


def test_what_the_cache_holds_needs_neither_net_nor_credentials(
    world: Sources, model: Path, watch: Callable[..., Watched]
) -> None:
    checkpoint = open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))
    loaded = watch().load(checkpoint)
    world.hub.close()
    world.hub.store.asked.clear()
    again = open_checkpoint(world.uri("hf", "m"))
    assert again.model == checkpoint.model
    assert watch().load(again).keys() == loaded.keys()
    pinned = Access(revision=checkpoint.model.revision, pinned=True)
    assert open_checkpoint(world.uri("hf", "m"), "auto", pinned).model == checkpoint.model
    assert not world.hub.store.asked


@pytest.mark.parametrize("kind", ["hf", "https"])
def test_a_token_goes_to_the_source_and_nowhere_else(
    world: Sources, model: Path, watch: Callable[..., Watched], kind: str
) -> None:
    world.hub.token = world.web.token = TOKEN
    for wrong in (Access(), Access(credentials=Secret("another"))):
        with pytest.raises(CheckpointError) as refused:
            open_checkpoint(world.uri(kind, "m"), "auto", wrong)
        assert refused.value.reason == "Unauthorized"
        assert "another" not in str(refused.value)
    watch().load(open_checkpoint(world.uri(kind, "m"), "auto", access(kind)))
    assert not any(
        "Authorization" in asked.headers or "authorization" in asked.headers for asked in world.hub.store.asked
    )


def test_a_revision_of_the_hub(world: Sources, model: Path) -> None:
    for uri, given in (("hf://org/m", ""), ("hf://org/m", "v1"), ("hf://org/m:v1", ""), ("hf://org/m@main", "")):
        assert open_checkpoint(uri, "auto", Access(given)).model.revision == world.hub.COMMIT
    for uri, given in (("hf://org/m", "nowhere"), ("hf://org/m:nowhere", ""), ("hf://org/m:v1", "v1")):
        with pytest.raises(CheckpointError, match=given or "nowhere") as refused:
            open_checkpoint(uri, "auto", Access(given))
        assert refused.value.reason == "ArtifactNotFound"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there(world: Sources, kind: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(world.uri(kind, "nobody"), "auto", access(kind))
    assert refused.value.reason == "ArtifactNotFound"


@pytest.mark.parametrize(
    ("lever", "reason"),
    [
        (Lever(status=401), "Unauthorized"),
        (Lever(status=403), "Unauthorized"),
        (Lever(status=500), "SourceUnavailable"),
        (Lever(status=429), "SourceUnavailable"),
        (Lever(drop_after=1), "SourceUnavailable"),
        (Lever(ranges=False), "InvalidCheckpoint"),
    ],
    ids=["401", "403", "500", "429", "drops", "no ranges"],
)
def test_what_a_server_may_answer(world: Sources, model: Path, impatient: None, lever: Lever, reason: str) -> None:
    world.web.lever = lever
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    assert refused.value.reason == reason
    assert TOKEN not in refused.value.message
    assert refused.value.__cause__ is None, "a foreign text would be logged with it"
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_away(world: Sources, impatient: None, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in ("FOREBAY_HF_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    uri = "https://127.0.0.1:9/m" if kind == "https" else world.uri(kind, "m")
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(uri, "auto", access(kind))
    assert refused.value.reason == "SourceUnavailable"


@pytest.mark.parametrize("lever", [Lever(drop_after=1000, times=3), Lever(status=503, times=3)], ids=["drops", "503"])
def test_a_fault_that_passes_is_not_seen(
    world: Sources, model: Path, watch: Callable[..., Watched], small_blocks: int, lever: Lever
) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    world.web.lever = lever
    loaded = watch().load(checkpoint)
    expected = load_file(model / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_certificate_of_nobody_we_trust_is_refused(
    world: Sources, model: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    assert refused.value.reason == "SourceUnavailable"


@pytest.mark.parametrize(
    "text",
    [
        "AKIAX:sekret",
        "[default]\naws_access_key_id = AKIAX\naws_secret_access_key = sekret\n",
        "AWS_ACCESS_KEY_ID=AKIAX\nAWS_SECRET_ACCESS_KEY=sekret",
    ],
    ids=["pair", "credentials file", "variables"],
)
def test_credentials_of_s3_in_any_usual_form(world: Sources, model: Path, text: str) -> None:
    assert open_checkpoint(world.uri("s3", "m"), "auto", Access(credentials=Secret(text))).model.revision


def test_a_secret_that_is_none_of_s3(world: Sources, model: Path) -> None:
    with pytest.raises(CheckpointError, match="must be KEY_ID:SECRET") as refused:
        open_checkpoint(world.uri("s3", "m"), "auto", Access(credentials=Secret("hunter2")))
    assert refused.value.reason == "Unauthorized"
    assert "hunter2" not in refused.value.message


def test_pickled_weights_are_refused(world: Sources, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"x")
    world.add("p", folder)
    for kind in ("hf", "s3"):
        with pytest.raises(CheckpointError, match="pickled weights") as refused:
            open_checkpoint(world.uri(kind, "p"), "auto", access(kind))
        assert refused.value.reason == "InvalidCheckpoint"


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_source_is_another_model_and_not_what_was_inspected(
    world: Sources, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model
    folder = tmp_path / "changed"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.01}))
    world.add("m", folder)
    monkeypatch.setattr(world.hub, "COMMIT", "f" * 40)
    world.hub.add("org/m", folder)
    after = open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model
    assert after.backbone != before.backbone
    assert after.revision != before.revision
    monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "another node"))
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(world.uri(kind, "m"), "auto", access(kind, revision=before.revision, pinned=True))
    assert refused.value.reason in ("ChecksumMismatch", "ArtifactNotFound")  # the hub knows no such commit any more


@pytest.mark.parametrize("kind", ["hf", "file"])
def test_a_digest_is_what_sha256sum_says(world: Sources, model: Path, kind: str) -> None:
    uri = model.as_uri() if kind == "file" else world.uri(kind, "m")
    names = sorted(path.name for path in model.iterdir())
    printed = subprocess.run(["sha256sum", *names], cwd=model, capture_output=True, check=True).stdout
    digest = f"sha256:{hashlib.sha256(printed).hexdigest()}"
    assert digest == manifest({name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in names})
    found: Checkpoint = open_checkpoint(uri, "auto", Access(digest=digest))
    assert kind == "file" or found.model.digest == digest
    with pytest.raises(CheckpointError, match="its digest is sha256:") as refused:
        open_checkpoint(uri, "auto", Access(digest="sha256:" + "0" * 64))
    assert refused.value.reason == "ChecksumMismatch"


def test_sums_beside_the_files_are_believed_from_the_start(world: Sources, model: Path) -> None:
    names = sorted(path.name for path in model.iterdir())
    printed = subprocess.run(["sha256sum", *names], cwd=model, capture_output=True, check=True).stdout
    world.put_object("models/m/SHA256SUMS", printed)
    world.web.files["/models/m/SHA256SUMS"] = printed
    for kind in ("s3", "https"):
        found = open_checkpoint(world.uri(kind, "m"), "auto", access(kind)).model
        assert found.digest == f"sha256:{hashlib.sha256(printed).hexdigest()}"


def test_the_environment_of_a_worker_keeps_transformers_offline_and_not_us(
    world: Sources, model: Path, tmp_path: Path
) -> None:
    """As ``python -m forebay_worker`` sets it before anything is imported."""
    world.hub.token = TOKEN
    made = subprocess.run(
        [sys.executable, "-m", "forebay_worker", "inspect", world.uri("hf", "m")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "FOREBAY_MODEL_CREDENTIALS": TOKEN},
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["revision"] == world.hub.COMMIT
    assert TOKEN not in made.stdout + made.stderr
