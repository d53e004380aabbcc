"""The chart's own pool, made of a ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cluster_pools.store import CREATED, NAMESPACE, Store
from forebay_operator.cluster.api import ApiError, Unreachable
from forebay_operator.cluster.default_pool import AGAIN, SOON, DefaultPool, NoPool, wanted
from forebay_operator.cluster.kinds import KINDS

POOL = """
apiVersion: forebay.dev/v1alpha1
kind: WorkerPool
metadata:
  name: default
  labels: {a: b}
spec:
  nodeSelector: {gpu: "yes"}
"""


class Stand:
    def __init__(self, text: str | None = POOL) -> None:
        self.store = Store()
        self.events: list[tuple[str, str]] = []
        if text is not None:
            self.source = self.store.put(config_map(text))
        self.default = DefaultPool(
            self.store,  # type: ignore[arg-type]
            NAMESPACE,
            "fb",
            lambda: self.store.seen.pools,
            self.tell,
        )

    def tell(self, body: Mapping[str, Any], reason: str, message: str, warning: bool) -> None:
        assert warning == (reason != "PoolDeleted")
        self.events.append((reason, message))

    @property
    def pool(self) -> dict[str, Any]:
        return self.store.objects["WorkerPool", "default"]


def config_map(text: str) -> dict[str, Any]:
    metadata = {"name": "fb-pool", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"pool.yaml": text}}


async def test_the_pool_is_made_in_our_namespace_and_owned_by_its_config_map() -> None:
    stand = Stand()
    assert await stand.default.keep(100.0) == 100.0 + AGAIN
    metadata = stand.pool["metadata"]
    assert (metadata["namespace"], metadata["labels"]) == (NAMESPACE, {"a": "b"})
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "fb-pool", "uid": stand.source["metadata"]["uid"]}
    assert metadata["ownerReferences"] == [owner]


async def test_an_upgrade_changes_it() -> None:
    stand = Stand()
    await stand.default.keep(0.0)
    stand.store.change(
        KINDS.CONFIGMAP, "fb-pool", lambda body: body["data"].update({"pool.yaml": POOL + "  gpusPerNode: 3\n"})
    )
    await stand.default.keep(0.0)
    assert stand.pool["spec"]["gpusPerNode"] == 3


async def test_one_that_the_values_called_otherwise_before_goes() -> None:
    stand = Stand()
    await stand.default.keep(0.0)
    stand.store.put({**stand.pool, "metadata": {"name": "mine", "namespace": NAMESPACE}})
    renamed = POOL.replace("default", "other")
    stand.store.change(KINDS.CONFIGMAP, "fb-pool", lambda body: body["data"].update({"pool.yaml": renamed}))

    stand.store.failures["apply", "WorkerPool"] = ApiError(403, "Forbidden", "no")
    await stand.default.keep(0.0)
    assert stand.store.names(KINDS.POOL) == ["default", "mine"]  # as long as the new one is not there
    stand.store.failures.clear()
    stand.events.clear()

    assert await stand.default.keep(0.0) == AGAIN
    assert stand.store.names(KINDS.POOL) == ["mine", "other"]
    await stand.default.keep(0.0)
    assert stand.events == [("PoolDeleted", "deleted WorkerPool default: it is other now")]


async def test_a_former_one_that_is_on_its_way_out_is_left_alone() -> None:
    stand = Stand()
    await stand.default.keep(0.0)
    stand.store.change(KINDS.POOL, "default", lambda body: body["metadata"].update(deletionTimestamp=CREATED))
    renamed = POOL.replace("default", "other")
    stand.store.change(KINDS.CONFIGMAP, "fb-pool", lambda body: body["data"].update({"pool.yaml": renamed}))
    await stand.default.keep(0.0)
    assert ("delete", "WorkerPool", "default") not in stand.store.calls
    assert stand.store.names(KINDS.POOL) == ["default", "other"]


async def test_without_a_config_map_there_is_none() -> None:
    stand = Stand(None)
    assert await stand.default.keep(0.0) == AGAIN
    assert stand.store.names(KINDS.POOL) == []
    assert stand.events == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "this is not YAML"),
        ("", "expected a WorkerPool with metadata"),
        ("metadata: {name: x}", "apiVersion: got nothing, expected forebay.dev/v1alpha1"),
        (POOL.replace("nodeSelector", "nodeSelektor"), "did you mean nodeSelector"),
        ("x" * (1 << 19), "expected at most 262144"),
    ],
)
async def test_what_is_no_pool_is_said(text: str, said: str) -> None:
    stand = Stand(text)
    assert await stand.default.keep(0.0) == AGAIN
    assert stand.store.names(KINDS.POOL) == []
    (event,) = stand.events
    assert event[0] == "PoolRefused"
    assert said in event[1]
    with pytest.raises(NoPool, match=r"pool\.yaml"):
        wanted(stand.source)


async def test_a_pool_that_a_person_made_is_not_taken_over() -> None:
    stand = Stand()
    body = wanted(stand.source)
    del body["metadata"]["ownerReferences"]
    stand.store.put(body)
    assert await stand.default.keep(0.0) == AGAIN
    assert stand.events == [("PoolRefused", "a WorkerPool default exists that this release did not make")]


async def test_one_of_a_release_before_is_waited_for() -> None:
    stand = Stand()
    body = wanted(stand.source)
    body["metadata"]["ownerReferences"][0]["uid"] = "former"
    stand.store.put(body)
    assert await stand.default.keep(0.0) == SOON
    stand.store.change(KINDS.POOL, "default", lambda body: body["metadata"].update(ownerReferences=[]))
    stand.store.change(KINDS.POOL, "default", lambda body: body["metadata"].update(deletionTimestamp=CREATED))
    assert await stand.default.keep(0.0) == SOON
    assert stand.events == []


async def test_a_change_that_the_api_server_refuses_is_said() -> None:
    stand = Stand()
    stand.store.failures["apply", "WorkerPool"] = ApiError(422, "Invalid", "spec.cache: cannot be changed")
    assert await stand.default.keep(0.0) == AGAIN
    assert stand.events == [("PoolRefused", "spec.cache: cannot be changed")]


@pytest.mark.parametrize("verb", [("get", "ConfigMap"), ("get", "WorkerPool"), ("apply", "WorkerPool")])
async def test_an_api_server_that_is_away_is_asked_again_soon(verb: tuple[str, str]) -> None:
    stand = Stand()
    stand.store.failures[verb] = Unreachable(0, "Timeout", "no answer")
    assert await stand.default.keep(0.0) == SOON
    assert stand.events == []
