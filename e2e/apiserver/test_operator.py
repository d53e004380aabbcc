"""The operator as a process and a real API server: one leads, another takes over, nothing is written twice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import plane
import pytest
from operators import FUNCTIONS, LEASE, NAMESPACE, PATIENCE, Operator, condition, holder, pod, status, until

from control.actors import Gateway, Worker, checkpoint
from forebay_api.conditions import ConditionType
from forebay_channel import Identity, Role, open_channel
from forebay_wire.v1 import fleet_pb2, view_pb2, view_pb2_grpc

SECRETS = "/api/v1/namespaces/default/secrets"
ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
MANY = 300
WRONG, RIGHT = "hub-token-of-yesterday", "hub-token-of-today"
SOON = 20.0
"""Seconds: several times as long as a Secret that did not help is believed, and less than any other is."""

pytestmark = pytest.mark.skipif(
    not plane.available() or not (plane.BINARIES / "helm").exists(), reason="no kube-apiserver or helm: `make testbed`"
)


@pytest.fixture
def start(api: plane.Plane) -> Iterator[Any]:
    """Makes and starts operators; nothing of them or of functions is left to the next test."""
    started: list[Operator] = []

    def begin(name: str, **environ: str) -> Operator:
        started.append(Operator(api, name, **environ).start())
        return started[-1]

    yield begin
    for operator in started:
        operator.end(signal.SIGKILL)
    with contextlib.suppress(urllib.error.HTTPError):
        api.request("DELETE", LEASE)
    api.request("DELETE", FUNCTIONS)


def function(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    spec = {"model": {"uri": "file:///models/a"}, **spec}
    return {"apiVersion": "forebay.dev/v1alpha1", "kind": "LLMFunction", "metadata": metadata, "spec": spec}


def apply(api: plane.Plane, name: str, **spec: Any) -> None:
    api.apply(f"{FUNCTIONS}/{name}", function(name, **spec))


def test_without_workers_a_function_has_every_condition(api: plane.Plane, start: Any) -> None:
    apply(api, "alone")
    operator = start("op-a")
    until(lambda: status(api, "alone").get("conditions"))
    found = status(api, "alone")
    assert {entry["type"] for entry in found["conditions"]} == {kind.value for kind in ConditionType}
    ready = condition(api, "alone", "Ready")
    assert (ready["status"], ready["reason"], ready["observedGeneration"]) == ("Unknown", "NoWorker", 1)
    assert found["url"] == "http://forebay-gateway.forebay-system.svc/default/alone"
    assert (found["replicas"], found["state"], found["selector"]) == (0, "Idle", "forebay.dev/pool=default")
    assert operator.ready()
    apply(api, "alone", suspend=True)
    until(lambda: condition(api, "alone", "Ready").get("reason") == "Suspended")
    assert status(api, "alone")["observedGeneration"] == 2
    told = until(lambda: [event for event in api.request("GET", EVENTS)["items"] if event["reason"] == "Suspended"])
    assert told[0]["regarding"]["name"] == "alone"
    for refused in ("401", "403"):
        assert operator.count("forebay_api_requests_total", code=refused) == 0
    assert operator.end() == 0


async def test_workers_are_adopted_by_the_next_operator(api: plane.Plane, start: Any) -> None:
    checkpoints: dict[str, Any] = {"file:///models/a": checkpoint("aaaa", "file:///models/a")}
    first = start("op-a")
    workers = [Worker(f"w{number}", checkpoints) for number in range(2)]
    for worker in workers:
        worker.report.pod_uid = pod(api, worker.name)
    stranger = Worker("w0", checkpoints)
    stranger.report.pod_uid = "another"
    gateway = Gateway("default")
    await asyncio.to_thread(until, first.ready)
    try:
        for worker in workers:
            await worker.attach(f"127.0.0.1:{first.grpc}")
        await gateway.connect(f"127.0.0.1:{first.grpc}")
        await stranger.attach(f"127.0.0.1:{first.grpc}")
        await asyncio.to_thread(until, lambda: "pod w0 is" in first.logged())
        await stranger.die()
        apply(api, "served")
        await asyncio.to_thread(until, lambda: condition(api, "served", "Ready").get("status") == "True")
        assert status(api, "served")["state"] == "Idle"
        assert status(api, "served")["model"]["backbone"] == "aaaa"
        gateway.ask("served", waiting=1)
        await asyncio.to_thread(until, lambda: status(api, "served")["state"] == "Serving")
        gateway.ask("served", in_flight=1)
        await asyncio.to_thread(until, lambda: status(api, "served")["readyReplicas"] == 1)
        await asyncio.to_thread(until, lambda: sum(len(worker.runs) for worker in workers) == 1)  # consolidated
        running = {worker.name: worker.runs for worker in workers}
        await asyncio.to_thread(until, lambda: len(status(api, "served").get("placements", ())) == 1)
        await asyncio.sleep(1)  # and for whatever else is to be written of it
        first.end()
        second = start("op-b", FOREBAY_OPERATOR=f"127.0.0.1:{first.grpc}")
        await asyncio.to_thread(until, second.leads)
        before = status(api, "served")
        await asyncio.sleep(12)  # whatever it would do wrong it would have done by now
        assert {worker.name: worker.runs for worker in workers} == running
        assert status(api, "served") == before
        assert second.count("forebay_api_requests_total", code="403") == 0
    finally:
        for actor in (gateway, *workers):
            await actor.die()


class Hub(Worker):
    """A worker whose hub wants a token."""

    def _inspect(self, question: fleet_pb2.Inspect) -> None:
        if question.credentials == RIGHT:
            super()._inspect(question)
        else:
            refused = fleet_pb2.Inspection(id=question.id, reason="Unauthorized", message="the hub refused")
            self.inspections.append(refused)


async def test_a_secret_that_is_corrected_is_tried_within_seconds(api: plane.Plane, start: Any) -> None:
    rules = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["hub"], "verbs": ["get"]}]
    named = {"name": "hub", "namespace": "default"}
    who = {"kind": "ServiceAccount", "name": "forebay-operator", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "hub"}
    api.request("POST", f"{ROLES}/roles", {"metadata": named, "rules": rules})
    api.request("POST", f"{ROLES}/rolebindings", {"metadata": named, "subjects": [who], "roleRef": role})
    operator = start("op-a")
    await asyncio.to_thread(until, operator.ready)
    hub = Hub("hub-0", {"hf://org/m": checkpoint("aaaa", "hf://org/m")})
    hub.report.pod_uid = pod(api, hub.name)
    await hub.attach(f"127.0.0.1:{operator.grpc}")
    try:
        apply(api, "gated", model={"uri": "hf://org/m", "credentials": {"secretRef": {"name": "hub", "key": "TOKEN"}}})
        await asyncio.to_thread(until, lambda: "no Secret default/hub" in said(api, "gated"))
        api.request("POST", SECRETS, {"metadata": named, "stringData": {"TOKEN": WRONG}})
        await asyncio.to_thread(until, lambda: "the hub refused" in said(api, "gated"), SOON)
        api.request("PATCH", f"{SECRETS}/hub", {"stringData": {"TOKEN": RIGHT}}, "application/merge-patch+json")
        await asyncio.to_thread(until, lambda: condition(api, "gated", "Ready").get("status") == "True", SOON)
        assert len(hub.commands("inspect")) == 2
        told = [event for event in api.request("GET", EVENTS)["items"] if event["regarding"]["name"] == "gated"]
        assert told
        for shown in (api.request("GET", f"{FUNCTIONS}/gated"), told, operator.shows(operator.view), operator.logged()):
            assert not any(token in json.dumps(shown) for token in (WRONG, RIGHT))
    finally:
        await hub.die()


def said(api: plane.Plane, name: str) -> str:
    return str(condition(api, name, "Ready").get("message", ""))


def test_a_restart_changes_no_status(api: plane.Plane, start: Any) -> None:
    apply(api, "kept")
    first = start("op-a")
    # No gateway is there, so what is asked is unknown for good.
    until(lambda: condition(api, "kept", "ScalingActive").get("status") == "False")
    before = api.request("GET", f"{FUNCTIONS}/kept")
    first.end()
    second = start("op-b")
    until(second.ready)
    until(second.leads)
    time.sleep(13)  # longer than anything waits before it is written
    after = api.request("GET", f"{FUNCTIONS}/kept")
    assert before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    assert second.count("forebay_api_requests_total", verb="apply") == 0


def test_of_two_one_acts_and_the_other_takes_over(api: plane.Plane, start: Any) -> None:
    apply(api, "one")
    first = start("op-a")
    until(lambda: holder(api) == "op-a")
    second = start("op-b")
    until(second.ready)
    until(first.ready)
    assert not second.leads()
    assert second.shows(second.grpc) is second.shows(second.view) is grpc.StatusCode.UNAVAILABLE
    for port in (first.grpc, first.view):
        assert json.loads(str(first.shows(port)))["operator"]["term"] == 1
    began = time.monotonic()
    first.end(signal.SIGKILL)
    until(second.leads, 12.0)  # the promise of a standby: it is a limit, no measurement
    print(f"a killed leader was followed after {time.monotonic() - began:.1f} s")
    assert term(second) == 2
    apply(api, "two")
    until(lambda: status(api, "two").get("conditions"))
    third = start("op-c")
    until(third.ready)
    began = time.monotonic()
    second.send(signal.SIGTERM)
    until(third.leads, 3.0)
    until(lambda: "the lease is given back" in second.logged())
    print(f"a leader that stopped was followed after {time.monotonic() - began:.1f} s")
    assert second.process is not None
    assert second.process.wait(30) == 0  # told once: a second signal would end it while it ends
    assert term(third) == 3
    assert holder(api) == "op-c"


def term(leader: Operator) -> int:
    """As workers and gateways see it, for whom the doors open a moment after it leads."""
    said = until(lambda: isinstance(found := leader.shows(leader.grpc), str) and found)
    return int(json.loads(said)["operator"]["term"])


def test_who_sees_another_leader_steps_down_and_waits(api: plane.Plane, start: Any) -> None:
    operator = start("op-a")
    until(lambda: holder(api) == "op-a")
    until(operator.leads)
    lease = api.request("GET", LEASE)
    spec = {**lease["spec"], "holderIdentity": "op-x_00000000", "leaseTransitions": 7}
    api.request("PATCH", LEASE, {"spec": spec}, "application/merge-patch+json")
    until(lambda: not operator.leads())
    until(lambda: operator.shows(operator.grpc) is grpc.StatusCode.UNAVAILABLE)
    until(operator.leads)  # op-x never renews
    assert term(operator) == 8


def test_while_the_api_server_is_away_the_leader_leads_on(api: plane.Plane, start: Any) -> None:
    apply(api, "before")
    apply(api, "deleted")
    operator = start("op-a")
    until(lambda: status(api, "deleted").get("conditions"))
    api.stop()
    time.sleep(12)  # longer than the lease
    assert shown(operator) == {"before", "deleted"}
    assert operator.leads()
    api.start()
    until(lambda: holder(api) == "op-a")
    api.request("DELETE", f"{FUNCTIONS}/deleted")
    apply(api, "after")
    until(lambda: status(api, "after").get("conditions"))
    until(lambda: shown(operator) == {"before", "after"})
    assert json.loads(str(operator.shows(operator.grpc)))["operator"]["term"] == 1


def test_a_watch_that_expired_begins_anew_and_loses_nothing(api: plane.Plane, start: Any) -> None:
    for name in ("kept", "changed", "deleted"):
        apply(api, name)
    operator = start("op-a")
    until(lambda: all(condition(api, name, "Ready") for name in ("kept", "changed", "deleted")))
    kept = condition(api, "kept", "Ready")
    version = api.request("GET", FUNCTIONS)["metadata"]["resourceVersion"]
    operator.send(signal.SIGSTOP)  # it cannot watch again in between
    api.stop()
    api.start()
    api.request("DELETE", f"{FUNCTIONS}/deleted")
    apply(api, "changed", suspend=True)
    apply(api, "new")
    api.compact()
    api.stop()
    api.start()  # so that it remembers no more than etcd
    assert api.expired(FUNCTIONS, version)
    operator.send(signal.SIGCONT)
    until(lambda: condition(api, "changed", "Ready").get("reason") == "Suspended")
    until(lambda: condition(api, "new", "Ready"))
    until(lambda: shown(operator) == {"kept", "changed", "new"})
    apply(api, "later")
    until(lambda: condition(api, "later", "Ready"))
    assert shown(operator) == {"kept", "changed", "new", "later"}
    assert condition(api, "kept", "Ready") == kept
    assert operator.ready()
    assert "a watch shows not what there is" not in operator.logged()  # it did not have to be told


def shown(operator: Operator) -> set[str]:
    """Names of the functions in the operator's view."""
    return {entry["name"] for entry in json.loads(str(operator.shows(operator.grpc)))["functions"]}


def test_what_another_writer_does_to_a_status_is_put_right(api: plane.Plane, start: Any) -> None:
    apply(api, "fought")
    start("op-a")
    until(lambda: condition(api, "fought", "Ready"))
    since = condition(api, "fought", "Ready")["lastTransitionTime"]
    other = {**function("fought"), "status": {"state": "Serving", "readyReplicas": 9}}
    del other["spec"]
    api.apply(f"{FUNCTIONS}/fought/status", other, manager="somebody-else")
    until(lambda: status(api, "fought")["state"] == "Idle" and status(api, "fought")["readyReplicas"] == 0)
    assert condition(api, "fought", "Ready")["lastTransitionTime"] == since


async def test_many_functions_at_once_are_ready_and_cost_few_calls(api: plane.Plane, start: Any) -> None:
    operator = start("op-a")
    worker = Worker("of-many", {"file:///models/a": checkpoint("aaaa", "file:///models/a")})
    worker.report.pod_uid = pod(api, worker.name)
    gateway = Gateway("default")
    await asyncio.to_thread(until, operator.ready)
    await worker.attach(f"127.0.0.1:{operator.grpc}")
    await gateway.connect(f"127.0.0.1:{operator.grpc}")
    try:
        await asyncio.sleep(12)  # what is said at the beginning of a term may be put right once
        before = operator.count("forebay_api_requests_total")
        began = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(apply, api, f"f{number}") for number in range(MANY)))
        await asyncio.to_thread(until, lambda: all_ready(api), 2 * PATIENCE)
        print(f"{MANY} functions are Ready after {time.monotonic() - began:.1f} s")
        await asyncio.sleep(3)
        calls = operator.count("forebay_api_requests_total") - before
        written = operator.count("forebay_api_requests_total", verb="apply", kind="llmfunctions/status")
        # One status, and a second of those that were seen before their model was known.
        assert MANY <= written <= 2 * MANY
        assert calls <= written + MANY, "whatever else is said is said once of each at most"
    finally:
        for actor in (gateway, worker):
            await actor.die()


def all_ready(api: plane.Plane) -> bool:
    found = [item.get("status", {}).get("conditions", ()) for item in api.request("GET", FUNCTIONS)["items"]]
    states = [{entry["type"]: entry["status"] for entry in conditions}.get("Ready") for conditions in found]
    return len(states) == MANY and set(states) == {"True"}


def test_a_wrong_setting_is_refused_by_name(api: plane.Plane, start: Any) -> None:
    operator = start("op-a", FOREBAY_VIEW="0.0.0.0:9444")
    assert operator.process is not None
    assert operator.process.wait(30) == 2
    assert "FOREBAY_VIEW='0.0.0.0:9444': expected an address of loopback" in operator.logged()


async def test_with_certificates_strangers_are_refused(api: plane.Plane, start: Any, tmp_path: Path) -> None:
    first = start("op-a", FOREBAY_TLS=str(tmp_path / "a"))
    until(first.ready)
    second = start("op-b", FOREBAY_TLS=str(tmp_path / "b"))
    until(second.ready)
    assert first.shows(first.grpc) is grpc.StatusCode.UNAVAILABLE  # in plain text
    assert json.loads(str(first.shows(first.view)))["operator"]["term"] == 1  # loopback
    seen = {role: await shown_to(api, role, first.grpc, tmp_path) for role in Role}
    assert seen[Role.WORKER] is grpc.StatusCode.PERMISSION_DENIED
    assert json.loads(str(seen[Role.GATEWAY]))["operator"]["term"] == 1
    assert await shown_to(api, Role.GATEWAY, second.grpc, tmp_path) is grpc.StatusCode.UNAVAILABLE  # it is the standby


async def shown_to(api: plane.Plane, role: Role, port: int, folder: Path) -> str | grpc.StatusCode:
    """The view, as somebody with the certificate of ``role`` gets it."""
    secret = api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/forebay-{role}-tls")
    identity = Identity(folder / role, "forebay")
    identity.folder.mkdir(exist_ok=True)
    for name, text in secret["data"].items():
        (identity.folder / name).write_bytes(base64.b64decode(text))
    async with open_channel(f"127.0.0.1:{port}", (), identity=identity, role=Role.OPERATOR) as channel:
        try:
            async for snapshot in view_pb2_grpc.ViewStub(channel).Watch(view_pb2.ViewRequest(once=True), timeout=5):
                return str(snapshot.json)
        except grpc.RpcError as error:
            return error.code()
    raise AssertionError("no snapshot")
