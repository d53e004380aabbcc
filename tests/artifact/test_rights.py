"""Who reads what with which credentials: nobody sees through the cache, or with a token, that is another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from artifact.servers import HubServer
from artifact.sources import TOKEN, Sources, access
from forebay_worker.artifact.access import Access, Secret
from forebay_worker.load.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from forebay_worker.load.source import Source

WRONG = Access(credentials=Secret("hf_wrong"))


@pytest.fixture
def gated(world: Sources, model: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """Everybody may list it; only who has a token may read."""
    real = HubServer.answer

    def answer(hub: HubServer, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        listed = path.startswith("/api/models/")
        return hub._listing(path.removeprefix("/api/models/")) if listed else real(hub, path, headers)

    monkeypatch.setattr(HubServer, "answer", answer)
    world.hub.token = TOKEN
    return world.hub


def read(checkpoint: Checkpoint) -> None:
    source = Source(checkpoint.stamps, checkpoint.artifact)
    try:
        for piece in (piece for unit in checkpoint.tensors for piece in unit):
            source.read(piece.file, piece.offset, [memoryview(bytearray(piece.nbytes))])
    finally:
        source.close()


def pinned(checkpoint: Checkpoint, token: str) -> Access:
    """As a command of the operator has it."""
    return Access(revision=checkpoint.model.revision, credentials=Secret(token), pinned=True)


@pytest.mark.parametrize("wrong", [Access(), WRONG], ids=["no token", "another token"])
def test_who_may_not_read_a_gated_model_does_not_see_it_in_the_cache(
    world: Sources, gated: HubServer, wrong: Access
) -> None:
    mine = open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))
    read(mine)  # all of it is in the cache now
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(world.uri("hf", "m"), "auto", wrong)
    assert refused.value.reason == "Unauthorized"
    assert open_checkpoint(world.uri("hf", "m"), "auto", access("hf")).model == mine.model


def test_a_wrong_token_of_one_is_no_matter_for_another(world: Sources, gated: HubServer, small_blocks: int) -> None:
    mine = open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))
    theirs = open_checkpoint(world.uri("hf", "m"), "auto", pinned(mine, "hf_wrong"))
    read(mine)
    for name in ("files", "blocks", "complete"):
        assert mine.artifact
        (mine.artifact.place.folder / name / "model.safetensors").unlink(missing_ok=True)
    with pytest.raises(CheckpointError) as refused:
        read(theirs)
    assert refused.value.reason == "Unauthorized"


def test_a_token_that_ended_is_replaced_by_the_operator_s_next(
    world: Sources, gated: HubServer, small_blocks: int
) -> None:
    looked = open_checkpoint(world.uri("hf", "m"), "auto", access("hf"))
    held = open_checkpoint(world.uri("hf", "m"), "auto", pinned(looked, TOKEN))
    inherited = open_checkpoint(world.uri("hf", "m"))
    gated.token = "hf_next"
    with pytest.raises(CheckpointError) as refused:
        read(held)
    assert refused.value.reason == "Unauthorized"
    open_checkpoint(world.uri("hf", "m"), "auto", pinned(looked, "hf_next"))
    read(held)
    read(inherited)
