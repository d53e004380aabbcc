"""What the operator adds to a model's uri, how it treats a source that is away, and that it shows no secret."""

from __future__ import annotations

from typing import Any

import pytest

from forebay_api.function import Function
from forebay_operator.act import Actor
from forebay_operator.credentials import FromEnvironment, Refused, SecretKey, Token
from forebay_operator.inspections import FIRST_REST, LONGEST_REST, RETRY, Inspections
from forebay_operator.subject import Subject
from forebay_wire.v1 import fleet_pb2, model_pb2

HERE = {"w0": "w0-1"}
SECRET = "hf_averysecrettoken"


def function(**model: Any) -> Function:
    return Function.from_body(
        {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "LLMFunction",
            "metadata": {"name": "f", "namespace": "team"},
            "spec": {"model": {"uri": "hf://org/m", **model}},
        }
    )


def answered(inspections: Inspections, subject: Subject, now: float, **answer: Any) -> None:
    question = inspections.ask(subject, "w0", "w0-1", now)
    assert question
    inspections.hear(fleet_pb2.Inspection(id=question.id, **answer))
    inspections.settle(HERE, now)


def test_a_subject_is_all_that_its_answer_depends_on() -> None:
    digest = "sha256:" + "0" * 64
    credentials = {"secretRef": {"name": "hub", "key": "TOKEN"}}
    subject = Subject.of(function(revision="v1", digest=digest, credentials=credentials))
    assert subject == Subject("hf://org/m", "auto", "v1", digest, SecretKey("team", "hub", "TOKEN"))
    assert Subject.of(function()) == Subject("hf://org/m", "auto")
    assert subject.remote
    assert not Subject("file:///m", "auto").remote


def test_a_question_carries_what_fetching_takes() -> None:
    asked = Inspections().ask(Subject("hf://org/m", "auto", "v1", "sha256:1"), "w0", "w0-1", 1.0, Token(SECRET))
    assert asked
    assert (asked.revision, asked.digest, asked.credentials) == ("v1", "sha256:1", SECRET)


def test_a_source_that_is_away_is_no_failure_and_asked_again_less_and_less_often() -> None:
    inspections, subject, now, rest = Inspections(), Subject("hf://org/m", "auto"), 100.0, FIRST_REST
    for _ in range(8):
        answered(inspections, subject, now, reason="SourceUnavailable", message="away")
        assert inspections.found(subject) is None
        inspections.settle(HERE, now + rest - 0.1)
        assert inspections.under_way(subject), "so that no decision asks at once again"
        assert inspections.ask(subject, "w0", "w0-1", now + rest - 0.1) is None
        assert inspections.wake_at(now + 0.1) == min(now + rest, now + RETRY)
        trouble = inspections.trouble(subject)
        assert trouble
        assert trouble.message == "away"
        now += rest
        inspections.settle(HERE, now)
        assert not inspections.under_way(subject)
        rest = min(2 * rest, LONGEST_REST)
    answered(inspections, subject, now, model=model_pb2.Model(backbone="b"))
    assert inspections.trouble(subject) is None
    assert inspections.subjects("b", subject.uri) == [subject]
    assert inspections.subjects("b", "s3://bucket/the-same-bytes") == []


def test_what_was_known_stays_while_the_source_is_away() -> None:
    inspections, subject = Inspections(), Subject("hf://org/m", "auto")
    answered(inspections, subject, 1.0, model=model_pb2.Model(backbone="b"))
    answered(inspections, subject, 2.0, reason="SourceUnavailable", message="away")
    found = inspections.found(subject)
    assert getattr(found, "backbone", "") == "b"


def test_a_corrected_function_is_asked_about_at_once() -> None:
    inspections, subject = Inspections(), Subject("hf://org/m", "auto")
    answered(inspections, subject, 1.0, reason="SourceUnavailable", message="away")
    inspections.settle(HERE, 1.1)
    inspections.forget_failure(subject)
    assert inspections.ask(subject, "w0", "w0-1", 1.1)


def test_credentials_that_cannot_be_had_are_said_without_asking_anybody() -> None:
    inspections, subject = Inspections(), Subject("hf://org/m", "auto", "", "", SecretKey("team", "hub", "TOKEN"))
    inspections.refuse(subject, Refused("no such variable"), 5.0)
    assert inspections.wake_at(5.0) == 5.0, "a pass, so that the status says so"
    found = inspections.found(subject)
    assert (getattr(found, "reason", ""), getattr(found, "message", "")) == ("Unauthorized", "no such variable")
    inspections.settle(HERE, 6.0)
    assert inspections.wake_at(6.0) != 6.0
    assert inspections.due({subject: 30.0}, 36.0) == [subject], "a variable may be set by a restart, a Secret any time"


def test_local_mode_takes_a_variable_of_the_key_s_name() -> None:
    credentials = FromEnvironment({"TOKEN": SECRET})
    assert credentials.find(SecretKey("any", "hub", "TOKEN")) == Token(SECRET)
    assert credentials.find(SecretKey("any", "hub", "OTHER")) == Refused(
        "spec.model.credentials: the environment variable OTHER is not set"
    )


@pytest.mark.parametrize("shown", [repr, str, "{}".format])
def test_a_token_shows_itself_to_nobody(shown: Any) -> None:
    assert SECRET not in shown(Token(SECRET))
    assert SECRET not in shown((Token(SECRET), {"a": Token(SECRET)}))


class _Later:
    """Credentials that are still being read."""

    def __init__(self) -> None:
        self.found: Token | Refused | None = None

    def find(self, wanted: SecretKey, *, doubted: bool = False) -> Token | Refused | None:
        return self.found


def test_commands_wait_for_credentials_and_go_without_those_that_are_refused() -> None:
    inspections, later = Inspections(), _Later()
    subject = Subject("hf://org/m", "auto", "", "sha256:1", SecretKey("team", "hub", "TOKEN"))
    answered(inspections, subject, 1.0, model=model_pb2.Model(backbone="b"))
    actor = Actor(None, inspections, None, None, later)  # type: ignore[arg-type]  # nobody is told here
    ref = model_pb2.ModelRef(backbone="b", uri=subject.uri)
    assert not actor._complete(ref)
    later.found = Refused("gone")
    assert actor._complete(ref)
    assert ref.credentials == ""
    later.found = Token(SECRET)
    assert actor._complete(ref)
    assert (ref.credentials, ref.digest) == (SECRET, "sha256:1")
    assert actor._complete(model_pb2.ModelRef(backbone="another"))
