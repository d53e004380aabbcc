"""Objects as a watch shows them, in the orders in which events of several objects can come."""

from __future__ import annotations

from typing import Any

from forebay_api.function import FunctionKey
from forebay_operator.cluster.shelf import Shelf
from forebay_operator.cluster.source import Source


def body(name: str, uid: str, version: int = 1, **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "managedFields": [{}]}
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "LLMFunction",
        "metadata": {**metadata, "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1, **more},
        "spec": {"model": {"uri": "file:///m/a"}},
    }


def test_an_object_comes_changes_and_goes() -> None:
    shelf = Shelf()
    assert shelf.take("ADDED", body("f", "1"))
    assert not shelf.take(None, body("f", "1"))  # listed again, and the same
    assert shelf.take("MODIFIED", body("f", "1", 2))
    assert shelf.named()["ns", "f"]["metadata"]["resourceVersion"] == "2"
    assert "managedFields" not in shelf.named()["ns", "f"]["metadata"]
    assert shelf.take("DELETED", body("f", "1", 3))
    assert not shelf.take("DELETED", body("f", "1", 3))
    assert not shelf.named()


def test_late_news_of_a_former_object_of_the_same_name_harm_nothing() -> None:
    shelf = Shelf()
    shelf.take("ADDED", body("f", "old"))
    shelf.take("ADDED", body("f", "new", 5, creationTimestamp="2026-01-01T00:00:01Z"))
    shelf.take("MODIFIED", body("f", "old", 3, deletionTimestamp="2026-01-01T00:00:01Z"))
    assert shelf.named()["ns", "f"]["metadata"]["uid"] == "new"
    shelf.take("DELETED", body("f", "old", 4))
    assert shelf.named()["ns", "f"]["metadata"]["uid"] == "new"


def test_made_anew_within_a_second() -> None:
    shelf = Shelf()
    shelf.take("ADDED", body("f", "new", 5))
    shelf.take("MODIFIED", body("f", "old", 3, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert shelf.named()["ns", "f"]["metadata"]["uid"] == "new"


def test_what_changed_is_told_once() -> None:
    shelf = Shelf()
    shelf.take(None, body("f", "1"))
    shelf.take(None, body("g", "2"))
    assert shelf.touched() == {("ns", "f"), ("ns", "g")}
    assert shelf.drop(("2", "3"))
    assert not shelf.drop(("3",))
    assert shelf.touched() == {("ns", "g")}
    assert not shelf.touched()


def test_a_status_is_no_news_of_a_kind_whose_status_is_ours() -> None:
    ours, theirs = Shelf(by_generation=True), Shelf()
    for shelf in (ours, theirs):
        shelf.take("ADDED", body("f", "1"))
        assert shelf.named()["ns", "f"]["metadata"]["resourceVersion"] == "1"
        assert shelf.take("MODIFIED", body("f", "1", 2))
        assert shelf.named()["ns", "f"]["metadata"]["resourceVersion"] == "2"
    assert (ours.revision, theirs.revision) == (1, 2)
    assert ours.touched() == {("ns", "f")}
    ours.take("MODIFIED", body("f", "1", 3, generation=2))
    ours.take("MODIFIED", body("f", "1", 4, generation=2, deletionTimestamp="2026-01-01T00:00:00Z"))
    ours.take("DELETED", body("f", "1", 5))
    assert ours.revision == 4


async def test_functions_of_bodies() -> None:
    shelf = Shelf()
    source = Source(shelf.named)
    follow = source.follow()
    assert not (await anext(follow)).functions
    wrong = {**body("wrong", "2"), "spec": {"model": {"uri": "ftp://x"}}}
    for found in (body("f", "1"), wrong, body("gone", "3", deletionTimestamp="2026-01-01T00:00:00Z")):
        shelf.take("ADDED", found)
    source.changed()
    stored = await anext(follow)
    assert set(stored.functions) == {FunctionKey("ns", "f")}
    assert set(stored.invalid) == {FunctionKey("ns", "wrong")}
    assert "ns/wrong: spec.model.uri" in stored.problems[0]
    first = stored.functions[FunctionKey("ns", "f")]
    assert (first.uid, first.generation, first.created > 0) == ("1", 1, True)
    shelf.take("MODIFIED", body("f", "1", 2))  # its status
    source.changed()
    assert (await anext(follow)).functions[FunctionKey("ns", "f")] is first
    shelf.take("MODIFIED", body("f", "1", 3, generation=2))
    source.changed()
    assert (await anext(follow)).functions[FunctionKey("ns", "f")].generation == 2
    await follow.aclose()
