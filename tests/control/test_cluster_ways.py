"""Finding a system in a cluster: what kubectl is asked, and what a person is told when there is no way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from control.test_explain import forebay, seen, view
from forebay_cli.cluster import cluster
from forebay_cli.state import NothingRuns
from forebay_wire.v1 import view_pb2, view_pb2_grpc

# Answers `get leases` from leases.json, and `port-forward` with the port that is in ports.json under the target.
KUBECTL = """#!{python}
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "asked").open("a") as asked:
    print(*words, file=asked)
if "get" in words:
    space = words[words.index("-n") + 1] if "-n" in words else None
    items = json.loads((here / "leases.json").read_text())
    print(json.dumps({{"items": [item for item in items if space in (None, item["metadata"]["namespace"])]}}))
else:
    target = words[words.index("port-forward") + 1]
    port = json.loads((here / "ports.json").read_text()).get(target)
    if port is None:
        sys.exit(f"Error from server (NotFound): {{target}} not found")
    print(f"Forwarding from 127.0.0.1:{{port}} -> 9444", flush=True)
    print(f"Forwarding from [::1]:{{port}} -> 9444", flush=True)
    time.sleep(60)
"""


def lease(namespace: str, holder: str, name: str = "forebay-operator") -> dict[str, object]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"holderIdentity": holder}}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "leases.json").write_text(json.dumps([lease("forebay", "forebay-operator-a_x1y2")]))
    (tmp_path / "ports.json").write_text(
        json.dumps({"pod/forebay-operator-a": 40001, "pod/forebay-operator-b": 40003, "service/forebay-gateway": 40002})
    )
    return tmp_path


def test_the_leader_and_the_gateway_are_found_and_a_way_is_used_again(kubectl: Path) -> None:
    with cluster("there", None) as found:
        assert found.operator() == "127.0.0.1:40001"
        assert found.operator() == "127.0.0.1:40001"
        assert found.gateway() == "http://127.0.0.1:40002"
    asked = (kubectl / "asked").read_text().splitlines()
    assert all(line.startswith("--context there ") for line in asked)
    ways = [line.partition("port-forward ")[2] for line in asked if "port-forward" in line]
    assert ways == ["pod/forebay-operator-a :9444", "service/forebay-gateway :http"]  # whatever number it has there


class Leader(view_pb2_grpc.ViewServicer):
    """Shows one function."""

    async def Watch(self, request: view_pb2.ViewRequest, context: object) -> AsyncIterator[view_pb2.Snapshot]:
        yield view_pb2.Snapshot(json=json.dumps(view(seen())))


async def test_a_cluster_explains_itself(kubectl: Path, tmp_path: Path) -> None:
    server = grpc.aio.server()
    view_pb2_grpc.add_ViewServicer_to_server(Leader(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    (kubectl / "ports.json").write_text(json.dumps({"pod/forebay-operator-a": port}))
    try:
        async with forebay(tmp_path, "explain", "ns/a", "--kube-context", "there") as process:
            said, wrong = await process.communicate()
    finally:
        await server.stop(None)
    assert (process.returncode, wrong) == (0, b"")
    assert said.decode().splitlines()[0] == "ns/a: 41 requests in flight and held: 3 replicas"
    assert "--context there -n forebay port-forward pod/forebay-operator-a" in (kubectl / "asked").read_text()


def test_another_leader_is_followed(kubectl: Path) -> None:
    with cluster("there", "forebay") as found:
        found.operator()
        (kubectl / "leases.json").write_text(json.dumps([lease("forebay", "forebay-operator-b")]))
        assert found.operator() == "127.0.0.1:40003"


def test_what_is_wrong_is_said(kubectl: Path) -> None:
    with (
        cluster("there", "elsewhere") as found,
        pytest.raises(NothingRuns, match="not installed in namespace elsewhere"),
    ):
        found.operator()
    (kubectl / "leases.json").write_text(json.dumps([lease("one", "x"), lease("two", "y")]))
    with cluster("there", None) as found, pytest.raises(NothingRuns, match="choose a --kube-namespace of one, two"):
        found.operator()
    (kubectl / "leases.json").write_text(json.dumps([lease("forebay", "")]))
    with cluster("there", None) as found, pytest.raises(NothingRuns, match="no operator leads in namespace forebay"):
        found.operator()
    (kubectl / "leases.json").write_text(json.dumps([lease("forebay", "gone")]))
    with cluster("there", None) as found, pytest.raises(NothingRuns, match=r"no way to pod/gone: .*not found"):
        found.operator()


def test_without_kubectl_there_is_no_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with cluster("there", None) as found, pytest.raises(NothingRuns, match="needs kubectl"):
        found.gateway()
