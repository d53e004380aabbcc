"""Taking, keeping and losing a lease, over an API that keeps versions and can be away."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import pytest

from control.actors import until
from forebay_operator.cluster import leadership, lease
from forebay_operator.cluster.api import Api, Conflict, NotFound, Unreachable
from forebay_operator.cluster.leadership import ClusterTerm, Leadership


class Leases(Api):
    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.away = False
        self._version = 0

    async def get(self, kind: Any, namespace: str, name: str) -> dict[str, Any]:
        self._reach()
        if kind.name != "Lease" or self.lease is None:
            raise NotFound(404, "NotFound", name)
        return copy.deepcopy(self.lease)

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._reach()
        if self.lease is not None:
            raise Conflict(409, "AlreadyExists", "it is there")
        return self.put(body)

    async def replace(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._reach()
        if self.lease is None:
            raise NotFound(404, "NotFound", "gone")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "changed")
        return self.put(body)

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._version += 1
        self.lease = copy.deepcopy(dict(body))
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(self.lease)

    def take(self, holder: str, term: int) -> None:
        """As another operator would."""
        assert self.lease is not None
        self.put(lease.body(self.lease, holder, term, 0.0, 0.0))

    def spec(self, field: str) -> Any:
        return self.lease and self.lease["spec"][field]

    def _reach(self) -> None:
        if self.away:
            raise Unreachable(0, "Unreachable", "refused")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Leases:
    for name, seconds in (("DURATION", 1.0), ("RENEW", 0.05), ("RETRY", 0.02)):
        monkeypatch.setattr(leadership.lease, name, seconds)
    return Leases()


@contextlib.asynccontextmanager
async def campaigning(api: Leases, pod: str) -> Any:
    found = Leadership(api, "system", "forebay", pod)
    task = asyncio.ensure_future(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_taken_kept_and_given_back(api: Leases) -> None:
    async with campaigning(api, "a") as first:
        await until(first.leading.is_set)
        assert api.spec("holderIdentity").startswith("a_")
        async with campaigning(api, "b") as second:
            await asyncio.sleep(2 * lease.DURATION)
            assert (first.term, second.term) == (1, 0)
        assert api.spec("holderIdentity").startswith("a_")  # a standby gives nothing back
    assert (api.spec("holderIdentity"), api.spec("leaseTransitions")) == ("", 1)
    async with campaigning(api, "b") as second:
        await until(second.leading.is_set)
        assert second.term == 2


async def test_out_of_reach_it_leads_on_and_yields_to_whom_it_sees(api: Leases) -> None:
    async with campaigning(api, "a") as first:
        await until(first.leading.is_set)
        term = ClusterTerm(first)
        api.away = True
        assert first.lasts()
        await asyncio.sleep(2 * lease.DURATION)
        assert first.leading.is_set()
        assert not first.lasts()
        api.take("b_1", 2)
        api.away = False
        await until(first.lost.is_set)
        assert not first.leading.is_set()
        assert term.number == 1  # what is on its way was said under it
        await until(first.leading.is_set)  # b never renewed
        assert first.term == 3
        assert first.lasts()
        assert not first.lost.is_set()


async def test_a_standby_counts_no_time_in_which_it_saw_nothing(api: Leases) -> None:
    api.put(lease.body(lease.new("system", "forebay-operator", ()), "a_1", 1, 0.0, 0.0))
    async with campaigning(api, "b") as second:
        await until(lambda: second._above == 1)  # it saw the lease
        api.away = True
        await asyncio.sleep(2 * lease.DURATION)
        api.away = False
        await asyncio.sleep(0.1)
        assert second.term == 0  # the leader could not renew either, and gets as long as ever
        await until(second.leading.is_set)


def test_a_renewal_that_hangs_leaves_time_for_another() -> None:
    attempts = lease.RENEW + leadership.CALL + lease.RETRY + leadership.CALL
    assert attempts < lease.DURATION


async def test_a_lease_that_somebody_deleted_is_made_anew_in_a_higher_term(api: Leases) -> None:
    async with campaigning(api, "a") as first:
        await until(first.leading.is_set)
        api.lease = None
        await until(lambda: api.spec("leaseTransitions") == 2)
        assert first.leading.is_set()
        await until(lambda: first.term == 2)


async def test_a_standby_that_makes_a_deleted_lease_anew_leads_in_no_old_term(api: Leases) -> None:
    async with campaigning(api, "a") as first:
        await until(first.leading.is_set)
        async with campaigning(api, "b") as second:
            await until(lambda: second._above == 1)  # it saw the lease
            api.lease = None
            await until(lambda: first.term != 1 or second.term)
            assert max(first.term, second.term) == 2
            await until(lambda: first.leading.is_set() != second.leading.is_set())


async def test_a_term_rises_once_it_is_stored(api: Leases) -> None:
    async with campaigning(api, "a") as first:
        await until(first.leading.is_set)
        term = ClusterTerm(first)
        api.away = True
        term.rise_above(7)
        await asyncio.sleep(0.1)
        assert term.number == 1
        api.away = False
        await until(lambda: term.number == 8)
        assert api.spec("leaseTransitions") == 8
        term.rise_above(5)
        await asyncio.sleep(0.1)
        assert term.number == 8
