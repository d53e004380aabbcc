"""A body becomes a pool, or an error that says everything that is wrong with it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_api.frozen import LARGEST, Frozen, freeze, thaw
from forebay_api.pool import (
    AccessMode,
    Cache,
    ClaimTemplate,
    EmptyDir,
    HostPath,
    InvalidPool,
    Pool,
    PoolSpec,
    PullPolicy,
    Resources,
)

Body = dict[str, Any]


def body(**spec: object) -> Body:
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "WorkerPool",
        "metadata": {"name": "big"},
        "spec": {"nodeSelector": {"gpu": "yes"}, **spec},
    }


def read(**spec: object) -> PoolSpec:
    return Pool.from_body(body(**spec)).spec


def problems(wrong: Body) -> dict[str, tuple[object, str]]:
    with pytest.raises(InvalidPool) as caught:
        Pool.from_body(wrong)
    return {problem.field: (problem.value, problem.expected) for problem in caught.value.problems}


def test_what_is_not_said_has_its_default() -> None:
    pool = Pool.from_body(body())
    assert (pool.namespace, pool.name, pool.uid, pool.generation, pool.created) == ("default", "big", "", 1, 0.0)
    assert pool.spec == PoolSpec(
        node_selector=Frozen({"gpu": "yes"}),
        gpus_per_node=None,
        resource_name="nvidia.com/gpu",
        tolerations=(),
        runtime_class_name=None,
        priority_class_name=None,
        service_account_name=None,
        pod_labels=Frozen(),
        pod_annotations=Frozen(),
        pod_security_context=Frozen(),
        image=None,
        image_pull_policy=None,
        resources=Resources(Frozen(), Frozen()),
        args=(),
        env=(),
        volumes=(),
        volume_mounts=(),
        shm_size="1Gi",
        termination_grace_period_seconds=600,
        cache=None,
        max_unavailable=1,
    )


def test_no_workers_is_not_the_same_as_all_of_them() -> None:
    assert read(gpusPerNode=0).gpus_per_node == 0
    assert read(gpusPerNode=None).gpus_per_node is None


def test_pieces_of_a_pod_are_kept_as_they_are_and_nobody_changes_them() -> None:
    env: list[Any] = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}, {"name": "B"}]
    spec = read(env=env)
    env[0]["name"] = "changed"
    assert [piece["name"] for piece in spec.env] == ["A", "B"]
    assert json.loads(json.dumps(thaw(spec.env)))[0]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    with pytest.raises(TypeError):
        spec.env[0]["name"] = "changed"
    assert hash(spec) == hash(read(env=[dict(env[0], name="A"), env[1]]))


def test_quantities_may_be_numbers() -> None:
    spec = read(shmSize=1024, resources={"limits": {"cpu": 4, "memory": "8Gi"}, "requests": {"cpu": "500m"}})
    assert spec.shm_size == "1024"
    assert spec.resources == Resources(Frozen({"cpu": "4", "memory": "8Gi"}), Frozen({"cpu": "500m"}))


@pytest.mark.parametrize(
    ("given_cache", "cache"),
    [
        (
            {"claimTemplate": {"size": "10Gi"}},
            Cache(claim_template=ClaimTemplate("10Gi", None, (AccessMode.ONCE,))),
        ),
        (
            {"claimTemplate": {"size": 5, "storageClassName": "fast", "accessModes": ["ReadWriteMany"]}},
            Cache(claim_template=ClaimTemplate("5", "fast", ("ReadWriteMany",))),
        ),
        ({"hostPath": {"path": "/var/models"}}, Cache(host_path=HostPath("/var/models"))),
        ({"emptyDir": {}}, Cache(empty_dir=EmptyDir())),
        ({"emptyDir": {"sizeLimit": "1Ti"}, "hostPath": None}, Cache(empty_dir=EmptyDir("1Ti"))),
    ],
)
def test_a_cache_is_one_of_three(given_cache: Body, cache: Cache) -> None:
    assert read(cache=given_cache).cache == cache


def test_a_problem_says_what_would_be_right() -> None:
    wrong = body(
        gpuPerNode=2,
        resources={"limits": {"nvidia.com/gpu": "1"}},
        volumeMounts=[{"name": "m", "mountPath": "/m"}],
        cache={},
        env=[{"name": "A"}, {"name": "A"}],
    )
    found = problems(wrong)
    assert found["spec.gpuPerNode"][1] == "no field of this name; did you mean gpusPerNode?"
    assert found["spec.resources.limits"] == (
        "nvidia.com/gpu",
        "nothing here: each worker gets one nvidia.com/gpu by itself",
    )
    assert found["spec.volumeMounts"] == ("m", "the name of one of spec.volumes")
    assert found["spec.cache"][1] == "exactly one of claimTemplate, hostPath and emptyDir"
    assert found["spec.env"][1] == "a list in which each name is there once"


def test_an_empty_body_is_answered_too() -> None:
    assert list(problems({})) == ["apiVersion", "kind", "metadata", "spec"]


def test_a_value_that_blows_up_is_refused_and_not_printed() -> None:
    bomb: object = "x"
    for _ in range(60):
        bomb = {"a": bomb, "b": bomb}  # two to the sixtieth leaves, as YAML aliases make them
    deep: object = "x"
    for _ in range(10**4):
        deep = [deep]
    for piece in (bomb, {"a": deep}):
        with pytest.raises(InvalidPool) as caught:
            Pool.from_body(body(tolerations=[piece], shmSize=10**5000))
        assert [problem.field for problem in caught.value.problems] == ["spec.tolerations", "spec.shmSize"]
        assert all(len(str(problem)) < 250 for problem in caught.value.problems)


def test_a_frozen_mapping_is_a_mapping() -> None:
    frozen = freeze({"a": [1, {"b": None}], "c": 1.5})
    assert frozen == {"a": (1, {"b": None}), "c": 1.5}
    assert thaw(frozen) == {"a": [1, {"b": None}], "c": 1.5}
    assert repr(frozen) == "{'a': (1, {'b': None}), 'c': 1.5}"
    with pytest.raises(ValueError, match=f"at most {LARGEST} values"):
        freeze(list(range(LARGEST)))
    with pytest.raises(ValueError, match="text, numbers"):
        freeze({"a": object()})


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
sizes = st.sampled_from(["1", "512Mi", "10Gi", "1.5Ti", "100G"])
amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "ephemeral-storage"]), st.sampled_from(["0", "500m", "2Gi"])
)
leaves = st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=5)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
named_pieces = st.dictionaries(names, st.dictionaries(names, anything, max_size=2), max_size=3).map(
    lambda found: tuple(
        Frozen({**{k: freeze(v) for k, v in rest.items()}, "name": name}) for name, rest in found.items()
    )
)
pools = st.builds(
    Pool,
    namespace=names,
    name=names,
    uid=st.uuids().map(str) | st.just(""),
    generation=st.integers(1, 1000),
    created=st.integers(0, 2**32).map(float),
    spec=st.builds(
        PoolSpec,
        node_selector=st.dictionaries(names, names, min_size=1, max_size=3).map(Frozen),
        gpus_per_node=st.none() | st.integers(0, 16),
        resource_name=names.map("example.com/{}".format),
        tolerations=st.lists(st.dictionaries(names, anything, max_size=3).map(freeze), max_size=3).map(tuple),
        runtime_class_name=st.none() | names,
        priority_class_name=st.none() | names,
        service_account_name=st.none() | names,
        pod_labels=st.dictionaries(names, names, max_size=3).map(Frozen),
        pod_annotations=st.dictionaries(
            names, st.text(st.characters(exclude_characters="\x00"), max_size=9), max_size=3
        ).map(Frozen),
        pod_security_context=st.dictionaries(names, anything, max_size=3).map(freeze),
        image=st.none() | names.map("localhost/{}:v1".format),
        image_pull_policy=st.none() | st.sampled_from(PullPolicy),
        resources=st.builds(Resources, amounts.map(Frozen), amounts.map(Frozen)),
        args=st.lists(st.text(st.characters(codec="ascii", min_codepoint=32)), max_size=3).map(tuple),
        env=named_pieces,
        volumes=named_pieces,
        shm_size=sizes,
        termination_grace_period_seconds=st.integers(1, 86400),
        cache=st.none()
        | st.builds(
            Cache,
            claim_template=st.builds(
                ClaimTemplate, sizes, st.none() | names, st.just((AccessMode.ONCE,)) | st.just(tuple(AccessMode))
            ),
            host_path=st.none(),
            empty_dir=st.none(),
        )
        | names.map(lambda name: Cache(host_path=HostPath(f"/{name}")))
        | (st.none() | sizes).map(lambda size: Cache(empty_dir=EmptyDir(size))),
        max_unavailable=st.integers(1, 100),
    ),
)


@given(pools)
def test_a_written_body_is_read_as_the_same_pool(pool: Pool) -> None:
    assert Pool.from_body(json.loads(json.dumps(pool.to_body()))) == pool


SPEC_KEYS = ["nodeSelector", "tolerations", "env", "args", "volumes", "volumeMounts", "resources", "cache", "shmSize"]


@given(st.dictionaries(st.sampled_from(SPEC_KEYS), anything))
def test_whatever_a_body_holds_is_a_pool_or_a_list_of_problems(spec: Body) -> None:
    with contextlib.suppress(InvalidPool):
        assert Pool.from_body(body(**spec)).spec.node_selector
