"""A real worker looks at a model that no function names: a good one, and what is wrong with others."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from checkpoints import edit_config
from control.actors import until
from control.operators import function
from control.own_port import Led, led
from forebay_cli import plan, preview, view
from local.system import PATIENCE, write
from local.system import function as body


@contextlib.asynccontextmanager
async def worker(leader: Led, folder: Path) -> AsyncIterator[None]:
    """One that is ready."""
    words = ("serve", "--count", "1", "--device", "cpu", "--device-memory", "1GB", "--state", str(folder))
    with (folder / "log").open("w") as log:
        zygote = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forebay_worker", *words, "--operator", leader.workers), stdout=log, stderr=log
        )
    try:
        await until(lambda: leader.parts.control.outcome.seen.ready("default"), PATIENCE)
        yield
    finally:
        zygote.terminate()
        await asyncio.wait_for(zygote.wait(), PATIENCE)


async def test_a_real_worker_looks(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(tiny("llama"), odd)
    edit_config(odd, architectures=["OddForCausalLM"], model_type="odd")
    file = write(tmp_path / "tiny.yaml", body("tiny", tiny("llama")))
    with tempfile.TemporaryDirectory(prefix="fb-") as short:
        async with led(Path(short)) as leader, worker(leader, Path(short)):
            model = await preview.look(leader.people, function("tiny", tiny("llama").as_uri()))
            for folder, said in (
                (tmp_path / "none", "default/tiny: ArtifactNotFound: "),
                (odd, "default/tiny: UnsupportedArchitecture: .*OddForCausalLM"),
            ):
                with pytest.raises(preview.Unseen, match=said):
                    await preview.look(leader.people, function("tiny", folder.as_uri()))
            seen = await view.look(leader.people)
    assert not any(found["prepared"] or found["holds"] for found in seen["workers"]), "it has only looked"
    (made,) = plan.plans_in(seen, (file,), 64, "default", lambda _: model)
    assert made.to_json()["totalBytes"] == sum(unit.link_bytes for unit in model.units) > 0
    (stage,) = made.cut.stages
    assert (stage.first, stage.last) == (0, len(model.units) - 1)
