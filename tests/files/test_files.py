"""Functions come from files: many per file, whole files or nothing, watched, with problems that say where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay_api.function import FunctionKey
from forebay_operator.files import FunctionFiles, LoadedFunctions

DEADLINE = 20.0


def document(name: str, *more: str, uri: str = "file:///models/m") -> str:
    lines = ["apiVersion: forebay.dev/v1alpha1", "kind: LLMFunction", f"metadata: {{name: {name}}}"]
    return "\n".join([*lines, "spec:", f"  model: {{uri: '{uri}'}}", *(f"  {line}" for line in more)]) + "\n"


def key(name: str) -> FunctionKey:
    return FunctionKey("default", name)


def write(path: Path, *documents: str) -> Path:
    path.write_text("---\n".join(documents))
    return path


def test_a_file_holds_several_documents(tmp_path: Path) -> None:
    loaded = FunctionFiles([write(tmp_path / "f.yaml", "", document("a"), document("b"))]).load()
    assert loaded.problems == ()
    assert set(loaded.functions) == {key("a"), key("b")}
    a, b = loaded.functions.values()
    assert (a.generation, b.generation) == (1, 1)
    assert a.uid != b.uid
    assert a.created == (tmp_path / "f.yaml").stat().st_mtime


def test_a_folder_is_all_its_yaml_files(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", document("a"))
    write(tmp_path / "b.yml", document("b"))
    write(tmp_path / "c.txt", "no function")
    (tmp_path / "d.yaml").mkdir()
    loaded = FunctionFiles([tmp_path]).load()
    assert (set(loaded.functions), loaded.problems) == ({key("a"), key("b")}, ())


def test_the_generation_follows_the_spec_and_the_uid_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a"))
    files = FunctionFiles([path])
    first = files.load().functions[key("a")]
    write(path, "# only a comment\n" + document("a"))
    assert files.load().functions[key("a")] == first
    write(path, document("a", "suspend: true"))
    second = files.load().functions[key("a")]
    assert (second.generation, second.uid, second.spec.suspend) == (2, first.uid, True)
    path.unlink()
    assert files.load() == LoadedFunctions({}, ())
    write(path, document("a"))
    assert files.load().functions[key("a")].generation == 3
    assert FunctionFiles([path]).load().functions[key("a")].uid == first.uid


def test_a_problem_names_file_line_document_and_field(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a"), document("b", "scaling:", "  minReplicas: 9", "  maxReplica: 1"))
    loaded = FunctionFiles([path]).load()
    assert loaded.functions == {}
    assert loaded.problems == (
        f"{path}:14 (document 2): spec.scaling.maxReplica: got 1, expected no field of this name; "
        "did you mean maxReplicas?",
        f"{path}:13 (document 2): spec.scaling.minReplicas: got 9, "
        "expected at most spec.scaling.maxReplicas, which is 4",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: [1, 2\nb: 3\n", ":2: this is not YAML: "),
        ("key: 'é".encode("latin-1"), ": this is not YAML: "),
        ("- a\n- b\n", ":1: document 1 is no mapping of fields to values"),
        ("created: 2026-13-45T00:00:00Z\n", ": this is not YAML: month must be in 1..12"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: this is not YAML: could not determine a constructor"),
        ("[" * 20_000, ": nested too deeply"),
        (b"#" * (1 << 20) + b"##", ": larger than 1 MiB"),
    ],
)
def test_what_is_no_yaml_is_one_line(tmp_path: Path, content: str | bytes, problem: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (found,) = FunctionFiles([path]).load().problems
    assert found.startswith(f"{path}{problem}")
    assert "\n" not in found


def test_a_key_given_twice_is_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a", "suspend: true", "suspend: false"))
    (found,) = FunctionFiles([path]).load().problems
    assert found == f"{path}:6 (document 1): spec.suspend: got 'false', expected this field only once"


def test_a_missing_file_is_a_problem_and_a_deleted_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    files = FunctionFiles([path])
    assert files.load().problems == (f"{path}: there is no such file",)
    write(path, document("a"))
    assert files.load().problems == ()
    path.unlink()
    assert files.load() == LoadedFunctions({}, ())


def test_a_file_that_became_wrong_keeps_its_last_good_version(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a"), document("b"))
    files = FunctionFiles([path])
    good = files.load()
    write(path, document("a", "suspend: true"), document("b", "suspend: 7"))
    broken = files.load()
    assert broken.functions == good.functions
    assert len(broken.problems) == 1
    write(path, document("a", "suspend: true"))
    repaired = files.load()
    assert (set(repaired.functions), repaired.problems) == ({key("a")}, ())


def test_of_two_functions_with_one_name_the_one_that_was_there_stays(tmp_path: Path) -> None:
    there = write(tmp_path / "b.yaml", document("a", uri="file:///models/there"))
    files = FunctionFiles([tmp_path])
    files.load()
    new = write(tmp_path / "a.yaml", document("a", uri="file:///models/new"))
    loaded = files.load()
    assert loaded.functions[key("a")].spec.model.uri == "file:///models/there"
    assert loaded.problems == (f"{there}: default/a is also in {new}, and a function can be in one place only",)
    there.unlink()
    loaded = files.load()
    assert (loaded.functions[key("a")].spec.model.uri, loaded.problems) == ("file:///models/new", ())


def test_two_functions_of_one_name_in_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a", uri="file:///first"), document("a", uri="file:///second"))
    files = FunctionFiles([path])
    for _ in range(2):
        loaded = files.load()
        assert loaded.functions[key("a")].spec.model.uri == "file:///first"
        assert len(loaded.problems) == 1


def test_the_uri_may_name_a_variable(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a", uri="file://${MODELS}/m"))
    loaded = FunctionFiles([path], {"MODELS": "/srv/models"}).load()
    assert loaded.functions[key("a")].spec.model.uri == "file:///srv/models/m"
    assert FunctionFiles([path], {}).load().problems == (
        f"{path}:5 (document 1): spec.model.uri: got 'file://${{MODELS}}/m', "
        "expected the environment variable MODELS to be set",
    )


async def following(changes: AsyncIterator[LoadedFunctions]) -> LoadedFunctions:
    return await asyncio.wait_for(anext(changes), DEADLINE)


async def test_changes_are_seen_and_other_files_are_not(tmp_path: Path) -> None:
    path = write(tmp_path / "f.yaml", document("a"))
    changes = FunctionFiles([path]).watch()
    assert set((await following(changes)).functions) == {key("a")}
    waiting = asyncio.ensure_future(following(changes))
    await asyncio.sleep(0.3)  # until the watch is set; there is nothing to wait on
    (tmp_path / "other.yaml").write_text(document("x"))
    replacement = write(tmp_path / ".f.yaml.new", document("a"), document("b"))
    replacement.replace(path)  # as editors save
    assert set((await waiting).functions) == {key("a"), key("b")}
    path.unlink()
    assert (await following(changes)).functions == {}
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_folder_that_gains_a_file(tmp_path: Path) -> None:
    changes = FunctionFiles([tmp_path]).watch()
    assert (await following(changes)).functions == {}
    waiting = asyncio.ensure_future(following(changes))
    await asyncio.sleep(0.3)  # as above
    write(tmp_path / "f.yaml", document("a"))
    assert set((await waiting).functions) == {key("a")}
    await changes.aclose()  # type: ignore[attr-defined]
