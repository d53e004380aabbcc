"""A model that no function names, looked at for `forebay plan`: by the leader's workers, and nothing is written."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import plane
import pytest
from operators import FUNCTIONS, holder, pod, until
from test_operator import start
from test_two_leaders import quiet

from control.actors import Worker, checkpoint
from control.own_port import asked

URI = "file:///models/a"

__all__ = ["start"]

pytestmark = pytest.mark.skipif(
    not plane.available() or not (plane.BINARIES / "helm").exists(), reason="no kube-apiserver or helm: `make testbed`"
)


async def test_the_leaders_own_port_alone_has_it(api: plane.Plane, start: Any) -> None:
    first = start("op-a")
    await asyncio.to_thread(until, lambda: holder(api) == "op-a" and first.ready())
    second = start("op-b")
    await asyncio.to_thread(until, second.ready)
    worker = Worker("w0", {URI: checkpoint("aaaa", URI)})
    worker.report.pod_uid = pod(api, worker.name)
    try:
        await worker.attach(f"127.0.0.1:{first.grpc}")
        written = await quiet(first)
        found = await asked(f"127.0.0.1:{first.view}", URI)
        assert (found.reason, found.model.backbone) == ("", "aaaa")
        assert (await asked(f"127.0.0.1:{first.view}", "file:///models/none")).reason == "ArtifactNotFound"
        assert (await asked(f"127.0.0.1:{first.view}", URI, pool="none")).reason == "PoolNotFound"
        for port, code in (
            (first.grpc, grpc.StatusCode.UNIMPLEMENTED),
            (second.view, grpc.StatusCode.UNAVAILABLE),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked(f"127.0.0.1:{port}", URI)
            assert refused.value.code() is code
        assert await quiet(first) == written
        assert api.request("GET", FUNCTIONS)["items"] == []
    finally:
        await worker.die()
