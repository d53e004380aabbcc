"""`--kube-context`: a name without a namespace is of the context's, as it is for kubectl."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from control.test_command_line import START, forebay
from forebay_cli import view
from forebay_cli.cluster import Cluster

KUBECTL = f"""#!{sys.executable}
import sys
contexts = {{"named": '{{"namespace": "team"}}', "bare": "{{}}"}}
_, flag, context, *words = sys.argv
if (flag, words) != ("--context", ["config", "view", "--minify", "-o", "json"]):
    sys.exit("this kubectl only tells of contexts")
if context not in contexts:
    sys.exit(f"error: cannot locate context {{context}}")
print('{{"contexts": [{{"context": %s}}]}}' % contexts[context])
"""
FUNCTION = "apiVersion: forebay.dev/v1alpha1\nkind: LLMFunction\nmetadata: {name: a}\nspec: {model: {uri: file:///m}}\n"


class Gateway(ThreadingHTTPServer):
    """Knows no function, and which ones were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Refusing)
        self.asked: list[str] = []


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Gateway)
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += [self.path, told["model"]]
        self.send_error(404)

    def log_message(self, *_said: Any) -> None:
        """Says nothing."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def installed(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forebay in a cluster, in whose namespaces default and team there are functions called a."""
    spaces = ("default", "team")
    functions = [{"namespace": space, "name": "a", "conditions": [], "scaling": None} for space in spaces]
    starts = [{**START, "namespace": space} for space in spaces]

    async def look(_target: str) -> view.View:
        return {"functions": functions, "coldStarts": starts, "workers": [], "models": []}

    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(view, "look", look)
    monkeypatch.setattr(Cluster, "operator", lambda _cluster: "unix:/none")
    monkeypatch.setattr(Cluster, "gateway", lambda _cluster: f"http://127.0.0.1:{gateway.server_port}")


@pytest.mark.parametrize(
    ("context", "name", "space"),
    [("named", "a", "team"), ("bare", "a", "default"), ("named", "default/a", "default"), ("bare", "team/a", "team")],
)
def test_every_verb_takes_the_function_of_the_contexts_namespace(
    context: str,
    name: str,
    space: str,
    gateway: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = ["--kube-context", context]
    assert forebay(["invoke", name, "hello", *there], monkeypatch) == 2
    assert gateway.asked == [f"/{space}/a/v1/chat/completions", f"{space}/a"]
    capsys.readouterr()
    assert forebay(["explain", name, *there], monkeypatch) == 0
    assert capsys.readouterr().out.startswith(f"{space}/a: ")
    assert forebay(["timeline", name, "-o", str(tmp_path / "t.json"), *there], monkeypatch) == 0
    assert f"cold start of {space}/a" in (tmp_path / "t.json").read_text()


@pytest.mark.parametrize(("context", "space"), [("named", "team"), ("bare", "default")])
def test_a_file_without_a_namespace_is_planned_in_the_contexts(
    context: str, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(FUNCTION)
    assert forebay(["plan", "-f", str(tmp_path / "a.yaml"), "--kube-context", context], monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"forebay: {space}/a: ")


def test_the_last_cold_start_of_all_needs_no_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forebay(["timeline", "-o", str(tmp_path / "t.json"), "--kube-context", "unknown"], monkeypatch) == 0


def test_a_context_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forebay(["invoke", "a", "hello", "--kube-context", "unknown"], monkeypatch) == 2
    assert "cannot locate context unknown" in capsys.readouterr().err
