"""A body becomes a function, or an error that says everything that is wrong with it."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_api.function import (
    Credentials,
    Function,
    FunctionKey,
    FunctionSpec,
    InvalidFunction,
    Loading,
    LoadingStrategy,
    ModelSpec,
    OwnQuery,
    Queue,
    Scaling,
    ScalingMetric,
    ScalingMode,
    SecretRef,
)

Body = dict[str, Any]


def body(**spec: object) -> Body:
    return {
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "LLMFunction",
        "metadata": {"name": "chat"},
        "spec": {"model": {"uri": "file:///models/chat"}, **spec},
    }


def problems(wrong: Body) -> dict[str, tuple[object, str]]:
    with pytest.raises(InvalidFunction) as caught:
        Function.from_body(wrong)
    return {problem.field: (problem.value, problem.expected) for problem in caught.value.problems}


def test_what_is_not_said_has_its_default() -> None:
    function = Function.from_body(body())
    assert function.key == FunctionKey("default", "chat")
    assert str(function.key) == "default/chat"
    assert function.served_name == "chat"
    assert function.spec == FunctionSpec(
        model=ModelSpec(uri="file:///models/chat", name="", dtype="auto", max_model_len=None),
        scaling=Scaling(
            mode=ScalingMode.INTERNAL,
            min_replicas=0,
            max_replicas=4,
            metric=ScalingMetric.CONCURRENCY,
            target=16.0,
            target_utilization_percent=70,
            window_seconds=60,
            panic_window_percent=10,
            panic_threshold_percent=200,
            max_scale_up_rate=1000.0,
            max_scale_down_rate=2.0,
            scale_down_delay_seconds=0,
            scale_to_zero_grace_period_seconds=30,
            prometheus=None,
        ),
        replicas=None,
        container_concurrency=0,
        timeout_seconds=600,
        queue=Queue(max_requests=1000, queue_timeout_seconds=60, cold_start_timeout_seconds=300),
        loading=Loading(strategy=LoadingStrategy.PIPELINED, max_stages=4),
        suspend=False,
        pool="default",
        priority=0,
    )
    assert function.spec.model.revision is None
    assert function.spec.model.digest is None
    assert function.spec.model.credentials is None


def test_the_token_of_a_secret_has_a_usual_key() -> None:
    model = {"uri": "hf://owner/name", "revision": "refs/pr/1", "credentials": {"secretRef": {"name": "hub"}}}
    function = Function.from_body(body(model=model))
    assert function.spec.model.credentials == Credentials(SecretRef("hub", "HF_TOKEN"))
    assert function.spec.model.revision == "refs/pr/1"


def test_another_autoscaler_must_say_a_number() -> None:
    external = {"mode": "External"}
    assert problems(body(scaling=external)) == {
        "spec.replicas": (None, "a number: spec.scaling.mode External needs it")
    }
    assert list(problems(body(scaling=external, replicas=-1))) == ["spec.replicas"]
    function = Function.from_body(body(scaling=external, replicas=0))
    assert (function.spec.scaling.mode, function.spec.replicas) == (ScalingMode.EXTERNAL, 0)


def test_a_query_of_its_own_may_have_several_lines() -> None:
    own = {"query": "sum(\n  vllm_requests\n)", "target": 5}
    function = Function.from_body(body(scaling={"prometheus": own, "metric": "TokensPerSecond"}))
    assert function.spec.scaling.prometheus == OwnQuery("sum(\n  vllm_requests\n)", 5.0)
    assert function.spec.scaling.metric is ScalingMetric.TOKENS_PER_SECOND
    assert list(problems(body(scaling={"prometheus": {"query": "x" * 4097, "target": 5}}))) == [
        "spec.scaling.prometheus.query"
    ]


def test_a_wrong_value_hides_what_follows_from_it() -> None:
    """A uri of no known scheme has no revision either, but one message is enough."""
    assert list(problems(body(model={"uri": "ftp://m", "revision": "main"}))) == ["spec.model.uri"]
    assert list(problems(body(scaling={"minReplicas": 9, "maxReplicas": 0}))) == ["spec.scaling.maxReplicas"]


def test_a_null_section_and_a_null_field_are_absent_ones() -> None:
    assert Function.from_body(body(scaling=None, replicas=None, queue={"maxRequests": None})) == Function.from_body(
        body()
    )


def test_the_served_name_is_the_models_when_it_has_one() -> None:
    assert Function.from_body(body(model={"uri": "file:///m", "name": "Chat-7B.v2"})).served_name == "Chat-7B.v2"


def test_what_the_api_server_adds_is_read() -> None:
    given = body() | {"status": {"state": "Idle"}}
    given["metadata"] |= {
        "namespace": "team",
        "uid": "4f",
        "generation": 3,
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "resourceVersion": "9",
        "labels": {"a": "b"},
    }
    function = Function.from_body(given)
    assert (function.namespace, function.uid, function.generation) == ("team", "4f", 3)
    assert function.created == 1767323045.0


@pytest.mark.parametrize(
    ("spec", "field", "value", "expected"),
    [
        ({"scaling": {"minReplicas": -1}}, "spec.scaling.minReplicas", -1, "an integer of at least 0"),
        ({"scaling": {"minReplicas": "2"}}, "spec.scaling.minReplicas", "2", "an integer of at least 0"),
        ({"scaling": {"minReplicas": 1.5}}, "spec.scaling.minReplicas", 1.5, "an integer of at least 0"),
        ({"scaling": {"minReplicas": True}}, "spec.scaling.minReplicas", True, "an integer of at least 0"),
        ({"scaling": {"maxReplicas": 0}}, "spec.scaling.maxReplicas", 0, "an integer of at least 1"),
        ({"scaling": {"target": 0}}, "spec.scaling.target", 0, "a number from 0.01 to 1e+06"),
        ({"scaling": {"target": float("inf")}}, "spec.scaling.target", float("inf"), "a number from 0.01 to 1e+06"),
        ({"replicas": -1}, "spec.replicas", -1, "an integer of at least 0"),
        ({"containerConcurrency": 1001}, "spec.containerConcurrency", 1001, "an integer from 0 to 1000"),
        ({"timeoutSeconds": 0}, "spec.timeoutSeconds", 0, "an integer from 1 to 3600"),
        ({"queue": {"maxRequests": 0}}, "spec.queue.maxRequests", 0, "an integer of at least 1"),
        ({"loading": {"strategy": "Eager"}}, "spec.loading.strategy", "Eager", "one of Pipelined, Full"),
        ({"loading": {"maxStages": 17}}, "spec.loading.maxStages", 17, "an integer from 1 to 16"),
        ({"suspend": "yes"}, "spec.suspend", "yes", "true or false"),
        ({"loading": "Full"}, "spec.loading", "Full", "a mapping"),
        ({"model": {"uri": "file:///m", "maxModelLen": 0}}, "spec.model.maxModelLen", 0, "an integer of at least 1"),
        ({"model": {"uri": "file:///m", "maxModelLen": 2**40}}, "spec.model.maxModelLen", 2**40, "an integer of"),
        ({"model": {"uri": "file:///m", "dtype": "int8"}}, "spec.model.dtype", "int8", "one of auto, bfloat16"),
        ({"model": {"uri": "file:///m", "name": "a/b"}}, "spec.model.name", "a/b", "letters, digits"),
        ({"model": {"uri": "models/chat"}}, "spec.model.uri", "models/chat", "file:///absolute/folder"),
        ({"model": {"uri": "file://models/chat"}}, "spec.model.uri", "file://models/chat", "file:///absolute/folder"),
        ({"model": {"uri": "file:///" + "x" * 1024}}, "spec.model.uri", "file:///" + "x" * 1024, "at most 1024"),
        ({"model": {}}, "spec.model.uri", None, "it is required"),
        (
            {"scaling": {"minReplicas": 5}},
            "spec.scaling.minReplicas",
            5,
            "at most spec.scaling.maxReplicas, which is 4",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(
    spec: Body, field: str, value: object, expected: str
) -> None:
    found = problems(body(**spec))
    assert list(found) == [field]
    assert found[field][0] == value
    assert expected in found[field][1]


@pytest.mark.parametrize(
    "uri",
    [
        "hf://org/model",
        "hf://org/model:v1",
        "hf://org/model@refs/pr/1",
        "s3://bucket/model",
        "https://host/model",
        "file:///a b",
    ],
)
def test_the_other_schemes_are_for_a_worker_to_judge(uri: str) -> None:
    assert Function.from_body(body(model={"uri": uri})).spec.model.uri == uri


def test_unknown_fields_are_refused_with_the_nearest_known_one() -> None:
    wrong = body(scaling={"minReplica": 1}, retries=2)
    wrong["metadata"]["nmae"] = "x"
    found = problems(wrong)
    assert set(found) == {"metadata.nmae", "spec.scaling.minReplica", "spec.retries"}
    assert "did you mean minReplicas?" in found["spec.scaling.minReplica"][1]
    assert "did you mean name?" in found["metadata.nmae"][1]


@pytest.mark.parametrize("name", ["", "Chat", "-chat", "chat-", "chat_1", "chat.1", "c" * 41, "chat\n", 7, None])
def test_a_name_must_do_as_a_host_label(name: object) -> None:
    wrong = body()
    wrong["metadata"]["name"] = name
    assert list(problems(wrong)) == ["metadata.name"]


def test_all_problems_come_at_once() -> None:
    wrong: Body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "A"}, "spec": {"suspend": 1}}
    assert list(problems(wrong)) == [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "spec.model.uri",
        "spec.suspend",
    ]


def test_an_empty_body_is_answered_too() -> None:
    assert list(problems({})) == ["apiVersion", "kind", "metadata", "spec"]


def test_a_problem_reads_as_one_line() -> None:
    with pytest.raises(InvalidFunction, match=r"spec\.timeoutSeconds: got 'soon', expected an integer from 1 to 3600"):
        Function.from_body(body(timeoutSeconds="soon"))


@pytest.mark.parametrize("uri", ["https://user:hidden@host/m", "https://hidden@host", "https://host/m?token=hidden"])
def test_what_may_be_a_password_is_not_repeated(uri: str) -> None:
    with pytest.raises(InvalidFunction, match="without user, password") as caught:
        Function.from_body(body(model={"uri": uri}))
    assert "hidden" not in str(caught.value)


def test_a_value_that_blows_up_is_not_printed() -> None:
    bomb: object = "x"
    for _ in range(60):
        bomb = [bomb, bomb]  # two to the sixtieth leaves, as YAML aliases make them
    with pytest.raises(InvalidFunction) as caught:
        Function.from_body(body(timeoutSeconds=bomb, replicas=10**5000, suspend="y" * 1000))
    assert all(len(str(problem)) < 250 for problem in caught.value.problems)


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
functions = st.builds(
    Function,
    namespace=names,
    name=names,
    uid=st.uuids().map(str) | st.just(""),
    generation=st.integers(1, 1000),
    created=st.integers(0, 2**32).map(float),
    spec=st.builds(
        FunctionSpec,
        model=st.builds(
            ModelSpec,
            uri=names.map("file:///models/{}".format),
            name=st.just("") | names,
            dtype=st.sampled_from(["auto", "bfloat16", "float16", "float32"]),
            max_model_len=st.none() | st.integers(1, 2**31 - 1),
            digest=st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
        )
        | st.builds(
            ModelSpec,
            uri=names.map("hf://owner/{}".format),
            revision=st.none() | names,
            credentials=st.none() | st.builds(Credentials, st.builds(SecretRef, names, st.just("HF_TOKEN") | names)),
        ),
        scaling=st.builds(
            Scaling,
            min_replicas=st.integers(0, 5),
            max_replicas=st.integers(5, 100),
            metric=st.sampled_from(ScalingMetric),
            target=st.floats(0.01, 1e6),
            target_utilization_percent=st.integers(1, 100),
            window_seconds=st.integers(6, 3600),
            panic_window_percent=st.integers(1, 100),
            panic_threshold_percent=st.integers(110, 1000),
            max_scale_up_rate=st.floats(1.01, 1e5),
            max_scale_down_rate=st.floats(1.01, 1e5),
            scale_down_delay_seconds=st.integers(0, 3600),
            scale_to_zero_grace_period_seconds=st.integers(0, 10**6),
            prometheus=st.none() | st.builds(OwnQuery, names.map("sum({})".format), st.floats(0.01, 1e9)),
        ),
        replicas=st.none() | st.integers(0, 100),
        container_concurrency=st.integers(0, 1000),
        timeout_seconds=st.integers(1, 3600),
        queue=st.builds(Queue, st.integers(1, 10**6), st.integers(1, 3600), st.integers(1, 3600)),
        loading=st.builds(Loading, st.sampled_from(LoadingStrategy), st.integers(1, 16)),
        suspend=st.booleans(),
        pool=names,
        priority=st.integers(-1000, 1000),
    ),
)


@given(functions)
def test_a_written_body_is_read_as_the_same_function(function: Function) -> None:
    assert Function.from_body(function.to_body()) == function


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["apiVersion", "kind", "metadata", "spec"]
SPEC_KEYS = ["model", "scaling", "replicas", "queue", "loading", "timeoutSeconds", "suspend", "pool"]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, json)), st.dictionaries(st.sampled_from(SPEC_KEYS), json))
def test_whatever_a_body_holds_is_a_function_or_a_list_of_problems(top: Body, spec: Body) -> None:
    for given_body in (top, body(**copy.deepcopy(spec))):
        with contextlib.suppress(InvalidFunction):
            assert Function.from_body(given_body).spec.model.uri
