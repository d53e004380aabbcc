"""An emulated link: exact by count, shared by processes, never wedged by a killed one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from forebay_worker.load.link import Bucket, Link


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_byte_k_is_there_at_k_over_rate_however_late_the_reader_wakes() -> None:
    clock = Clock()
    link = Link(Bucket(1000.0), None, clock)
    for count in range(1, 50):
        assert link.charge(100) == pytest.approx(100.0 + count * 0.1)
        clock.now = 100.0 + count * 0.1 + (0.03 if count % 3 else 0.09)


def test_an_idle_link_gives_nothing_in_advance() -> None:
    clock = Clock()
    link = Link(Bucket(1000.0), None, clock)
    link.charge(100)
    link.idle()
    clock.now = 200.0
    assert link.charge(100) == pytest.approx(200.1)


def test_a_reader_that_was_stopped_does_not_get_what_it_slept_through() -> None:
    clock = Clock()
    link = Link(Bucket(1000.0), None, clock)
    link.charge(100)
    clock.now = 1000.0
    assert link.charge(1000) == pytest.approx(1000.0), "a second of it, no more"
    assert link.charge(100) == pytest.approx(1000.1)


def test_own_and_shared_bucket_are_both_charged() -> None:
    clock = Clock()
    shared = Bucket(1000.0)
    links = [Link(Bucket(800.0), shared, clock) for _ in range(2)]
    assert links[0].rate == 800.0
    assert links[0].charge(800) == pytest.approx(101.0), "its own link is the slower one"
    assert links[1].charge(800) == pytest.approx(101.6), "the shared one has 1600 bytes to carry"
    assert [link.charge(800) for link in links] == pytest.approx([102.4, 103.2])


def test_without_buckets_nothing_waits() -> None:
    link = Link(None, None)
    assert not link.paced
    assert link.rate == 0.0
    assert link.pace(1 << 40, threading.Event())


def test_waiting_ends_when_told_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    assert not Link(Bucket(1.0), None).pace(1 << 20, stop)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        Bucket(rate)


def reserve(bucket: Bucket, count: int) -> None:
    for _ in range(count):
        bucket.reserve(0.0, 10)


def test_forked_processes_share_one_bucket() -> None:
    bucket = Bucket(10.0)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=reserve, args=(bucket, 500)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    assert bucket.reserve(0.0, 0) == pytest.approx(1500.0), "every byte of every process was counted"


def reserve_for_ever(bucket: Bucket, started: int) -> None:
    os.write(started, b"x")
    while True:
        bucket.reserve(0.0, 10)


def test_a_killed_holder_wedges_nobody() -> None:
    bucket = Bucket(10.0)
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        reading, started = os.pipe()
        child = fork.Process(target=reserve_for_ever, args=(bucket, started), daemon=True)
        child.start()
        assert os.read(reading, 1) == b"x"
        time.sleep(0.005)
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)
        os.close(reading)
        os.close(started)
        before = bucket.reserve(0.0, 0)
        assert bucket.reserve(0.0, 10) == pytest.approx(before + 1.0)
        assert before % 1.0 == pytest.approx(0.0, abs=1e-6), "no reservation was taken by half"
