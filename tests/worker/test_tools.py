"""The tools of ``python -m forebay_worker`` and its flags: right answers, and one clear line for wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay_worker import nvml
from forebay_worker.device import CPU_SHARE, physical_bytes
from worker.system import run_worker

REQUIRED = ("--operator", "unix:/nowhere")


def test_inspect_prints_the_model(tiny: Callable[[str], Path]) -> None:
    done = run_worker("inspect", tiny("llama").as_uri())
    model = json.loads(done.stdout)
    assert done.returncode == 0
    assert len(model["backbone"]) == 16
    assert [unit["index"] for unit in model["units"]] == list(range(model["layers"] + 2))
    assert model["dtype"] == "float32"


def test_inspect_imports_no_torch(tiny: Callable[[str], Path]) -> None:
    program = (
        "import sys; from forebay_worker.__main__ import main;"
        f" assert main(['inspect', '{tiny('llama').as_uri()}']) == 0;"
        " assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_inspect_says_why_not_in_one_line(tmp_path: Path) -> None:
    done = run_worker("inspect", (tmp_path / "nothing").as_uri())
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "ArtifactNotFound" in done.stderr


def test_inspect_says_why_not_as_json_when_asked(tmp_path: Path) -> None:
    done = run_worker("inspect", "--json", tmp_path.as_uri())
    assert done.returncode == 2
    assert json.loads(done.stdout)["reason"] == "ArtifactNotFound"


def test_probe_measures_layer_and_head(tiny: Callable[[str], Path]) -> None:
    done = run_worker("probe", "--device", "cpu", "--count", "3", tiny("llama").as_uri())
    assert done.returncode == 0, done.stderr
    samples = json.loads(done.stdout)
    assert samples["memory"] == int(physical_bytes() * CPU_SHARE) // 3  # what each of three workers would take
    for kind in ("layer", "head"):
        tokens = [sample["tokens"] for sample in samples[kind]]
        assert tokens == sorted(set(tokens))
        assert all(sample["seconds"] > 0 for sample in samples[kind])


def test_a_folder_that_cannot_be_written_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_worker("model", "random", "--like", "smollm2", "--tiny", "--seed", "1", str(tmp_path / "file" / "model"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "file/model: cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--like", "gpt-5", "--seed", "1", "{folder}/new"), "gpt-5"),
        (("--like", "smollm2", "--seed", "1", "{folder}"), "empty"),
    ],
)
def test_a_model_that_cannot_be_made_gets_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_worker("model", "random", *(word.format(folder=tmp_path) for word in words))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--operator: required"),
        ((*REQUIRED, "--count", "0"), "--count: '0' is not a number of workers"),
        ((*REQUIRED, "--count", "many"), "--count: 'many'"),
        ((*REQUIRED, "--link-rate", "50"), "--link-rate: '50' is not a rate"),
        ((*REQUIRED, "--device-memory", "2 apples"), "--device-memory: '2 apples' is not a size"),
        ((*REQUIRED, "--device", "tpu"), "--device: 'tpu' is not a device"),
        ((*REQUIRED, "--cpus", "900"), "--cpus: core 900"),
        ((*REQUIRED, "--cpus", "3-1"), "--cpus: '3-1' is not a list of cores"),
        ((*REQUIRED, "--drain-seconds", "soon"), "--drain-seconds: 'soon'"),
        ((*REQUIRED, "--name-prefix", "A/"), "--name-prefix: 'A/'"),
        ((*REQUIRED, "--state", "/" + "s" * 120), "--state: /sss"),
    ],
)
def test_wrong_flags_get_one_line(flags: tuple[str, ...], says: str) -> None:
    done = run_worker("serve", *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.skipif(bool(nvml.inventory()), reason="there is a GPU")
def test_a_gpu_that_is_not_there_gets_one_line(tmp_path: Path) -> None:
    done = run_worker("serve", *REQUIRED, "--state", str(tmp_path), "--device", "cuda")
    assert done.returncode == 2
    assert done.stderr == f"forebay_worker: {nvml.NO_GPU}\n"
    assert "runtimeClassName" in done.stderr


def test_a_state_folder_that_cannot_be_used_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_worker("serve", *REQUIRED, "--state", str(tmp_path / "file"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_variables_stand_in_for_flags() -> None:
    done = run_worker("serve", FOREBAY_OPERATOR="unix:/nowhere", FOREBAY_COUNT="0")
    assert done.returncode == 2
    assert "'0' is not a number of workers" in done.stderr
