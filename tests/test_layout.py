"""The shape of the repository: what keeps Python, packaging and readers on the right path."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAIN_FOLDERS = ("operator", "worker", "proto", "crds", "tests", "e2e", "deploy")
SHAPELESS = {"utils", "util", "common", "helpers", "core", "manager", "managers", "misc", "lib"}
LONGEST_FILE = 400
GENERATED = ROOT / "proto" / "gen"
# Spelt in two halves each, so that this file does not mention them either.
MACHINE_PATHS = re.compile(r"(?<![\w.$}-])/(?:wo" + r"rk|ro" + r"ot)\b")
REGISTRY_HOSTS = re.compile(
    r"(?i)index[-_]url\s*=|\b(?:files\.python" + r"hosted|py" + r"pi)\.org|\bartifactory\b|\bproxy\.golang\b"
)


def tracked() -> list[Path]:
    """The files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> Iterator[Path]:
    return (path for path in tracked() if path.suffix == ".py" and GENERATED not in path.parents)


def test_plain_folders_are_no_packages() -> None:
    """`operator/__init__.py` would shadow the standard library's module and stop the interpreter itself."""
    below_tests = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("__init__.py")]
    assert [name for name in PLAIN_FOLDERS if (ROOT / name / "__init__.py").exists()] + below_tests == []


def test_no_name_says_nothing() -> None:
    named = {part for path in tracked() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert named & SHAPELESS == set()


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [path for path in sources() if not path.read_text().lstrip().startswith(('"""', 'r"""', "#!"))] == []


def test_the_repository_names_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [(path.name, hit[0]) for hit in (MACHINE_PATHS.search(text), REGISTRY_HOSTS.search(text)) if hit]
    assert found == []


def test_constraints_are_plain_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    assert lines == sorted(lines)


def test_imports_go_the_allowed_ways() -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_generated_code_is_what_protoc_makes_now(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto" / "forebay_wire").rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *outputs, *protos], cwd=ROOT, check=True)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    kept = {
        path.relative_to(GENERATED): path.read_text()
        for path in GENERATED.rglob("*_pb2*.py*")
        if "__pycache__" not in path.parts
    }
    assert made == kept, "run `make proto`"


@pytest.mark.parametrize(
    "target",
    [
        *("help", "setup", "demo", "up", "test", "test-gpu", "lint", "proto", "bench", "testbed", "cluster", "e2e"),
        *("e2e-card", "e2e-faults", "clean"),
    ],
)
def test_make_explains_its_targets(target: str) -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.search(rf"^{target}\s+\S", shown.stdout, re.MULTILINE)
