"""CPU time and run delay are read of slow loads always, and of fast ones as often as they are worth."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from feedwater import ring
from feedwater.ring import LoadTiming
from feedwater.worker import ESTIMATED, Slots

MS = 1_000_000
NUMBER = 3


@pytest.fixture
def words() -> Iterator[memoryview]:
    fd, made = ring.create()
    yield made
    os.close(fd)


def loads_of(words: memoryview, count: int, work: Callable[[], None]) -> list[LoadTiming]:
    """Return ``count`` loads that do ``work``, as the ring shows them."""
    slots = Slots(words, NUMBER)
    for _ in range(count):
        slots.begin()
        work()
        slots.store(None)
    slots.close()
    reader = ring.RingReader(words)
    return reader.loads(NUMBER, reader.worker_heads()[NUMBER])


def compute(seconds: float) -> Callable[[], None]:
    """Return work that takes so much CPU time."""

    def work() -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    return work


def test_slow_loads_are_all_read(words: memoryview) -> None:
    """Five loads of 6 ms of sleep: each is longer than the interval of readings, so none is estimated."""
    found = loads_of(words, 5, lambda: time.sleep(0.006))
    assert [load.spare & ESTIMATED for load in found] == [0] * 5
    assert all(load.cpu_ns < 3 * MS for load in found)


def test_fast_loads_are_mostly_estimated_and_add_up(words: memoryview) -> None:
    """Of 300 loads of 0.2 ms of CPU, one in 25 or so is read; the sum is 60 ms, estimates and all."""
    found = loads_of(words, 300, compute(0.0002))
    estimated = sum(bool(load.spare & ESTIMATED) for load in found)
    assert 150 < estimated < 300
    assert sum(load.cpu_ns for load in found) == pytest.approx(60 * MS, rel=0.3)


def test_fast_blocked_loads_stay_blocked(words: memoryview) -> None:
    """Of 60 loads that sleep 1 ms, estimated or not, the CPU time is a small part."""
    found = loads_of(words, 60, lambda: time.sleep(0.001))
    assert any(load.spare & ESTIMATED for load in found)
    assert sum(load.cpu_ns for load in found) < 0.5 * sum(load.end_ns - load.start_ns for load in found)


def test_an_estimate_never_exceeds_its_load(words: memoryview) -> None:
    """After loads of 2 ms of CPU a load of no work at all is not told to have used 2 ms."""
    work = iter([compute(0.002)] * 2 + [lambda: None] * 20)
    found = loads_of(words, 22, lambda: next(work)())
    assert all(load.cpu_ns + load.run_delay_ns <= load.end_ns - load.start_ns for load in found[2:])
