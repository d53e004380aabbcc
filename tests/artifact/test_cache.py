"""The node's cache: every byte once for all processes, resumed after a crash, verified, within its budget."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from artifact import fetching
from artifact.servers import Asked
from artifact.sources import Sources, access
from forebay_worker.artifact import blocks as blocks_module
from forebay_worker.artifact.access import Access
from forebay_worker.artifact.blocks import Blocks
from forebay_worker.artifact.cache import Cache, Place
from forebay_worker.artifact.listing import Listing
from forebay_worker.artifact.verify import Watch
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from forebay_worker.load.source import Source

SECONDS = 20.0
WEIGHTS = "model.safetensors"


def fetch(uri: str, block_bytes: int, units: range | tuple[int, ...]) -> subprocess.Popen[str]:
    words = [sys.executable, fetching.__file__, uri, str(block_bytes), *map(str, units)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def read(checkpoint: Checkpoint, units: range | None = None) -> None:
    source = Source(checkpoint.stamps, checkpoint.artifact)
    try:
        for unit in range(len(checkpoint.tensors)) if units is None else units:
            slices = checkpoint.tensors[unit]
            source.expect((piece.file, piece.offset, piece.offset + piece.nbytes) for piece in slices)
            for piece in slices:
                source.read(piece.file, piece.offset, [memoryview(bytearray(piece.nbytes))])
    finally:
        source.close()


def spans(checkpoint: Checkpoint) -> list[tuple[Path, int, int]]:
    slices = [piece for unit in checkpoint.tensors for piece in unit]
    return [(piece.file, piece.offset, piece.offset + piece.nbytes) for piece in slices]


def present(place: Path, count: int) -> list[int]:
    """The blocks that the state file says are there."""
    state = (place / "blocks" / WEIGHTS).read_bytes()
    return [index for index in range(count) if state[index] == 1]


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def place_of(checkpoint: Checkpoint) -> Place:
    assert checkpoint.artifact
    return checkpoint.artifact.place


class Watched:
    """A watch and what it has said."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.errors: list[CheckpointError] = []
        self._said = threading.Event()
        assert checkpoint.artifact
        self.place = checkpoint.artifact.place
        self.watch = Watch(checkpoint.artifact, spans(checkpoint), self._damaged)

    def _damaged(self, error: CheckpointError) -> None:
        self.errors.append(error)
        self._said.set()

    def error(self) -> CheckpointError:
        assert self._said.wait(SECONDS)
        return self.errors[0]

    def until(self, holds: Callable[[], object]) -> None:
        for _ in range(int(SECONDS * 100)):
            if holds():
                return
            self._said.wait(0.01)
        raise AssertionError(f"never; errors: {self.errors}")


def test_processes_share_a_cache_and_every_byte_is_fetched_once(world: Sources, model: Path) -> None:
    uri = world.uri("https", "m")
    units = range(6)
    workers = [fetch(uri, 64 << 10, tuple(units[start:]) + tuple(units[:start])) for start in (0, 2, 4)]
    for worker in workers:
        out, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0, out
    whole = [(begin, end) for begin, end in world.web.weights_asked() if (begin, end) not in ((0, 128 << 10), (0, 1))]
    assert len(whole) == len(set(whole)), "a block was fetched twice"
    ends = [0, *(end for _, end in whole)]
    assert [begin for begin, _ in whole] == ends[:-1], "blocks that leave nothing out and do not overlap"
    assert ends[-1] == (model / WEIGHTS).stat().st_size


def test_a_killed_worker_leaves_its_claim_and_what_it_had_fetched(world: Sources, model: Path) -> None:
    uri = world.uri("https", "m")
    reached, go_on = threading.Event(), threading.Event()

    def hold(asked: Asked) -> None:
        if asked.path.endswith(WEIGHTS) and asked.begin >= 256 << 10:
            reached.set()
            go_on.wait(SECONDS)
            raise ConnectionAbortedError  # who asked is dead

    world.web.lever.before = hold
    worker = fetch(uri, 64 << 10, range(6))
    assert reached.wait(120)
    [place] = [path for path in Cache.from_env().root.iterdir() if path.is_dir()]
    count = -(-(model / WEIGHTS).stat().st_size // (64 << 10))
    until(lambda: present(place, count))
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate(timeout=30)
    go_on.set()
    had = present(place, count)
    world.web.lever.before = lambda asked: None
    world.web.asked.clear()
    worker = fetch(uri, 64 << 10, range(6))
    out, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, out
    again = [begin // (64 << 10) for begin, end in world.web.weights_asked() if end > 1]  # but for the look at it
    assert again == [index for index in range(count) if index not in had]
    kept = load_file(place / "files" / WEIGHTS)
    assert all(torch.equal(kept[name], tensor) for name, tensor in load_file(model / WEIGHTS).items())


def test_a_complete_file_is_hashed_and_marked(world: Sources, model: Path, small_blocks: int) -> None:
    checkpoint = open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))
    watched = Watched(checkpoint)
    read(checkpoint)
    digest = hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
    watched.until(lambda: watched.place.complete(WEIGHTS) == digest)
    watched.watch.close()
    assert not watched.errors


@pytest.mark.parametrize("kind", ["hf", "https with sums"])
def test_a_wrong_byte_is_found_the_file_deleted_and_the_source_not_believed(
    world: Sources, model: Path, small_blocks: int, kind: str
) -> None:
    kind, server = ("hf", world.hub.store) if kind == "hf" else ("https", world.web)
    names = sorted(path.name for path in model.iterdir())
    sums = [f"{hashlib.sha256((model / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    world.web.files["/models/m/SHA256SUMS"] = "".join(sums).encode()
    uri = world.uri(kind, "m")
    if kind == "https":  # its ETag is that of the right file: only the sum can tell
        checkpoint = open_checkpoint(uri, "auto", access(kind))
    server.lever.flip = (model / WEIGHTS).stat().st_size - 100
    if kind == "hf":
        checkpoint = open_checkpoint(uri, "auto", access(kind))
    first, second = Watched(checkpoint), Watched(open_checkpoint(uri, "auto", access(kind)))
    read(checkpoint)
    for watched in (first, second):  # as two workers of a node: one hashes, both learn
        assert watched.error().reason == "ChecksumMismatch"
        assert "model.safetensors has sha256" in watched.error().message
        watched.watch.close()
    assert not (place_of(checkpoint).files / WEIGHTS).exists()
    for at_once in (access(kind), None):
        with pytest.raises(CheckpointError) as refused:
            read(open_checkpoint(uri, "auto", at_once))
        assert refused.value.reason == "ChecksumMismatch"


def test_damage_is_forgotten_after_a_while(world: Sources, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    place_of(checkpoint).condemn("was wrong", 1000.0, [WEIGHTS])
    assert place_of(checkpoint).damage(1299.0) == "was wrong"
    assert place_of(checkpoint).damage(1301.0) == ""
    read(open_checkpoint(world.uri("https", "m"), "auto", access("https")))


def test_a_digest_nobody_could_check_before_is_checked_when_all_is_there(
    world: Sources, model: Path, small_blocks: int
) -> None:
    wrong = Access(digest="sha256:" + "1" * 64)
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", wrong)
    watched = Watched(checkpoint)
    read(checkpoint)
    assert watched.error().reason == "ChecksumMismatch"
    watched.watch.close()


def test_bytes_that_no_unit_needs_are_fetched_for_the_sum(world: Sources, model: Path, small_blocks: int) -> None:
    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    assert checkpoint.artifact
    watch = Watch(checkpoint.artifact, spans(checkpoint)[:1], lambda error: None)
    with checkpoint.artifact.lease():
        checkpoint.artifact.bring(*spans(checkpoint)[0])
    watched = Watched(checkpoint)
    watched.until(lambda: watched.place.complete(WEIGHTS))
    watch.close()
    watched.watch.close()


def budget_for(folder: Path, monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    monkeypatch.setenv("FOREBAY_CACHE_BYTES", str(int((folder / WEIGHTS).stat().st_size * times) + (1 << 20)))


def test_the_longest_unused_goes_when_room_is_needed(
    world: Sources, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, small_blocks: int
) -> None:
    for name in ("a", "b", "c"):
        world.add(name, tiny("gpt_neox"))
    budget_for(tiny("gpt_neox"), monkeypatch, 2.2)
    opened = {}
    for at, name in enumerate(("a", "b", "a", "c")):
        opened[name] = open_checkpoint(world.uri("https", name), "auto", access("https"))
        read(opened[name])
        os.utime(place_of(opened[name]).folder / "used", (at, at))
    assert not (place_of(opened["b"]).files / WEIGHTS).exists()
    assert (place_of(opened["a"]).files / WEIGHTS).exists()
    read(opened["b"])  # what is open goes on, and fetches again
    assert (place_of(opened["b"]).files / WEIGHTS).exists()


def test_what_is_in_use_stays_and_says_so(
    world: Sources, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, small_blocks: int
) -> None:
    for name in ("a", "b"):
        world.add(name, tiny("gpt_neox"))
    budget_for(tiny("gpt_neox"), monkeypatch, 1.1)
    first = open_checkpoint(world.uri("https", "a"), "auto", access("https"))
    watched = Watched(first)
    read(first)
    second = open_checkpoint(world.uri("https", "b"), "auto", access("https"))
    with pytest.raises(CheckpointError, match="raise FOREBAY_CACHE_BYTES") as refused:
        read(second)
    assert refused.value.reason == "CacheFull"
    watched.watch.close()
    watched.until(lambda: not any(thread.name == "verify" for thread in threading.enumerate()))
    read(second)
    assert not (place_of(first).files / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("environ", "taken"), [({}, 45), ({"FOREBAY_POD_UID": "u"}, 30), ({"FOREBAY_CACHE_BYTES": "100MiB"}, 50)]
)
def test_without_a_budget_a_share_of_the_disk_stays_free(
    environ: dict[str, str], taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that is half full. A kubelet evicts the pods of a node whose disk has less than 10 or 15 % left."""
    blocks = 100 << 8
    half_full = os.statvfs_result((4096, 4096, blocks, blocks // 2, blocks // 2, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: half_full)
    cache = Cache.from_env({"FOREBAY_CACHE": str(tmp_path), **environ})
    mine = cache.place(Listing("https://host/m", "1", ()))
    cache.make_room((taken - 1) << 20, mine)
    with pytest.raises(CheckpointError, match="more than there is room for"):
        cache.make_room((taken + 1) << 20, mine)


def test_people_s_own_folders_are_left_alone(
    world: Sources, cache: Path, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, small_blocks: int
) -> None:
    own = cache / "smollm2" / WEIGHTS
    own.parent.mkdir(parents=True)
    own.write_bytes(bytes(1 << 20))
    monkeypatch.setenv("FOREBAY_CACHE_BYTES", "1KB")
    world.add("a", tiny("llama"))
    with pytest.raises(CheckpointError) as refused:
        read(open_checkpoint(world.uri("https", "a"), "auto", access("https")))
    assert refused.value.reason == "CacheFull"
    assert own.exists()


def test_a_fetched_model_is_no_folder_of_everybody_s(world: Sources, model: Path, cache: Path, tmp_path: Path) -> None:
    fetched = place_of(open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))).files
    (fetched / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes())  # all of it is there
    link, beside = tmp_path / "link", cache / "by-hand"
    link.symlink_to(fetched.parent, target_is_directory=True)
    shutil.copytree(fetched, beside)
    for folder in (fetched, link / "files", beside / ".." / fetched.parent.name / "files"):
        with pytest.raises(CheckpointError, match="must name the source it came from") as refused:
            open_checkpoint(f"file://{folder}", "auto", Access())
        assert refused.value.reason == "Unauthorized"
    assert open_checkpoint(beside.as_uri()).model.architecture == "LlamaForCausalLM"


def test_a_full_disk_is_said_as_such(
    world: Sources, model: Path, small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoint = open_checkpoint(world.uri("https", "m"), "auto", access("https"))
    monkeypatch.setattr(blocks_module.os, "pwrite", full)
    with pytest.raises(CheckpointError, match="the disk is full") as refused:
        read(checkpoint)
    monkeypatch.undo()
    assert refused.value.reason == "CacheFull"


def test_blocks_of_an_earlier_boot_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> Blocks:
        return Blocks(tmp_path / "data", tmp_path / "state", 25, 10)

    blocks = opened()
    assert blocks.claim(1)
    blocks.put(1, bytes(10))
    blocks.release(1)
    assert opened().missing(0, 25) == [0, 2]
    boot = tmp_path / "boot"
    boot.write_text("a later one\n")
    monkeypatch.setattr(blocks_module, "BOOT_FILE", boot)
    assert opened().missing(0, 25) == [0, 1, 2]


def test_a_block_is_claimed_by_one(tmp_path: Path) -> None:
    one, other = (Blocks(tmp_path / "data", tmp_path / "state", 25, 10) for _ in range(2))
    assert one.claim(0)
    assert not other.claim(0)
    assert other.claim(1)
    one.close()  # as the kernel does for a process that ends
    assert other.claim(0)


def test_nothing_secret_is_written(world: Sources, model: Path, cache: Path) -> None:
    for kind in ("hf", "s3", "https"):
        checkpoint = open_checkpoint(world.uri(kind, "m"), "auto", access(kind))
        read(checkpoint)
        secret = access(kind).credentials.value
        assert secret not in repr(checkpoint)
        assert secret not in repr(access(kind))
    written = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
    for secret in ("verysecret", "VERYSECRET", "signed-and-secret"):
        assert secret.encode() not in written


@pytest.mark.parametrize("head", ["none", "the same", "its own"])
def test_a_zygote_can_open_what_a_worker_has(
    world: Sources, tiny: Callable[[str], Path], tmp_path: Path, head: str
) -> None:
    """Without credentials, the net or a thread, since it forks; though it takes weights to see whether a head that
    the config ties to the embedding is one of its own."""
    folder = shutil.copytree(tiny("qwen2"), tmp_path / "m")
    if head != "none":
        tensors = load_file(folder / "model.safetensors")
        matrix = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = matrix.clone() if head == "the same" else matrix.flip(0)
        save_file(tensors, folder / "model.safetensors")
    world.add("m", folder)
    checkpoint = open_checkpoint(world.uri("s3", "m"), "auto", access("s3"))
    assert checkpoint.model.tied is (head != "its own")
    script = (
        "import sys, threading; from forebay_worker.load.checkpoint import open_checkpoint; "
        "found = open_checkpoint(sys.argv[1]); print(found.model.backbone, threading.active_count(), "
        "'obstore' in sys.modules, found.model.tied)"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, world.uri("s3", "m")], capture_output=True, text=True, check=True
    )
    assert made.stdout.split() == [checkpoint.model.backbone, "1", "False", str(checkpoint.model.tied)]
