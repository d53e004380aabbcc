"""Who leads, by the table: every row, and lives of several operators over one lease."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_operator.cluster import lease
from forebay_operator.cluster.lease import Acquire, LeaseSeen, Renew, StepDown, Wait, decide

ME, OTHER = "a_1", "b_1"
T = 100.0


@pytest.mark.parametrize(
    ("seen", "term", "above", "expected"),
    [
        pytest.param(LeaseSeen(ME, 4, "1", T), 4, 0, Renew(4), id="ours"),
        pytest.param(LeaseSeen(ME, 4, "1", T - 60), 4, 0, Renew(4), id="ours, long out of reach"),
        pytest.param(LeaseSeen(ME, 4, "1", T), 4, 9, Renew(10), id="workers obey more"),
        pytest.param(LeaseSeen(ME, 4, "1", T), 4, 4, Renew(4), id="workers obey us"),
        pytest.param(LeaseSeen("", 0, "", T), 4, 0, Acquire(5), id="somebody deleted ours"),
        pytest.param(LeaseSeen("", 9, "1", T), 4, 0, Acquire(10), id="somebody emptied ours"),
        pytest.param(LeaseSeen(OTHER, 5, "1", T - 60), 4, 0, StepDown(OTHER), id="another, though silent"),
        pytest.param(LeaseSeen("", 0, "", T), 0, 0, Acquire(1), id="none yet"),
        pytest.param(LeaseSeen("", 4, "1", T), 0, 0, Acquire(5), id="given back"),
        pytest.param(LeaseSeen(ME, 4, "1", T), 0, 0, Acquire(5), id="what we were before"),
        pytest.param(LeaseSeen(OTHER, 4, "1", T - 8.0), 0, 0, Acquire(5), id="silent for 8 s"),
        pytest.param(LeaseSeen(OTHER, 4, "1", T - 7.9), 0, 0, Wait(T + 0.1), id="silent for less"),
        pytest.param(LeaseSeen(OTHER, 4, "1", T), 0, 0, Wait(T + 1.0), id="just renewed"),
    ],
)
def test_decisions(seen: LeaseSeen, term: int, above: int, expected: object) -> None:
    got = decide(seen, ME, term, above, T)
    if isinstance(expected, Wait):
        assert isinstance(got, Wait)
        assert got.until == pytest.approx(expected.until)
    else:
        assert got == expected


def test_a_lease_lasts_no_longer_than_until_another_may_take_it() -> None:
    seen = LeaseSeen(OTHER, 4, "1", T)  # by whom waits for it, at the earliest when its holder had begun to write
    for now in (T, T + 7.9, T + 8.0, T + 60.0):
        taken = isinstance(decide(seen, ME, 0, 0, now), Acquire)
        assert lease.lasts(T, now) is not taken


def test_silence_is_measured_by_our_own_clock() -> None:
    """The holder's clock is an hour behind: what counts is when we first saw each version."""
    body = lease.body(lease.new("ns", "l", ()), OTHER, 3, 1000.0, 1000.0)
    body["metadata"]["resourceVersion"] = "7"
    first = lease.seen(body, LeaseSeen(), 5.0)
    assert first == LeaseSeen(OTHER, 3, "7", 5.0)
    assert lease.seen(body, first, 9.0) == first
    body["metadata"]["resourceVersion"] = "8"
    assert lease.seen(body, first, 9.0).changed == 9.0
    assert lease.seen(None, first, 9.0) == LeaseSeen(changed=9.0)


def test_what_is_written() -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "forebay-owner", "uid": "u"}
    new = lease.new("ns", "forebay-operator", (owner,))
    body = lease.body({**new, "metadata": {**new["metadata"], "managedFields": [1]}}, ME, 2, 61.5, 60.0)
    labels = {"app.kubernetes.io/name": "forebay", "app.kubernetes.io/component": "operator"}
    named = {"namespace": "ns", "name": "forebay-operator", "labels": labels}
    assert body["metadata"] == {**named, "ownerReferences": [owner]}
    assert body["spec"] == {
        "holderIdentity": ME,
        "leaseDurationSeconds": 8,
        "leaseTransitions": 2,
        "acquireTime": "1970-01-01T00:01:00.000000Z",
        "renewTime": "1970-01-01T00:01:01.500000Z",
    }
    assert lease.body(new, "", 2, 61.5, 60.0)["spec"]["leaseDurationSeconds"] == 1


class Stored:
    """A lease with the API server's optimism: a write over another version than the stored one fails."""

    def __init__(self) -> None:
        self.holder, self.transitions, self.version = "", 0, 0

    def write(self, holder: str, transitions: int, over: int) -> bool:
        if over != self.version:
            return False
        self.holder, self.transitions, self.version = holder, transitions, self.version + 1
        return True


class Candidate:
    def __init__(self, name: str, stored: Stored) -> None:
        self.name, self.stored = name, stored
        self.seen = LeaseSeen()
        self.term = 0

    def turn(self, now: float) -> None:
        over = self.stored.version
        version = str(over) if over else ""
        changed = self.seen.changed if version == self.seen.version else now
        self.seen = LeaseSeen(self.stored.holder, self.stored.transitions, version, changed)
        match decide(self.seen, self.name, self.term, 0, now):
            case Acquire(term) | Renew(term):
                if self.stored.write(self.name, term, over):
                    self.term = term
            case StepDown():
                self.term = 0
            case Wait():
                pass


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.1, 1.0, 5.0, 9.0])), max_size=60))
def test_no_term_is_anybodys_twice(turns: list[tuple[int, float]]) -> None:
    stored = Stored()
    candidates = [Candidate(f"c{number}", stored) for number in range(3)]
    led: dict[int, str] = {}
    now = 0.0
    for who, pause in turns:
        now += pause
        before = stored.transitions
        candidates[who].turn(now)
        assert stored.transitions >= before
        if term := candidates[who].term:
            assert led.setdefault(term, candidates[who].name) == candidates[who].name


def test_terms_of_a_lease_that_says_nothing() -> None:
    body: dict[str, Any] = {"metadata": {"resourceVersion": "1"}}
    assert lease.seen(body, LeaseSeen(), 1.0) == LeaseSeen("", 0, "1", 1.0)
