"""Ctrl-C during a sweep: nothing is cut off half done."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from torch.utils.data import DataLoader

from feedwater.sweep.interrupt import Interrupt, started
from feedwater.sweep.measure import Bench
from feedwater.sweep.target import shortened


class _Pressing:
    """A sampler during whose second item Ctrl-C comes, some times over, as in the middle of a ``next()``."""

    def __init__(self, presses: int) -> None:
        self._presses = presses
        self.finished: list[int] = []

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        for item in range(10):
            for _ in range(self._presses if item == 1 else 0):
                os.kill(os.getpid(), signal.SIGINT)
            self.finished.append(item)
            yield item


def _bench(sampler: _Pressing, step: Callable[[object], object]) -> Bench:
    loader = DataLoader(range(10), batch_size=1, sampler=sampler)
    return Bench(loader, shortened(loader), step)


def test_interrupt_comes_between_two_batches():
    """Pressed while the second batch is made: it is made and its step done, then the epoch is interrupted."""
    steps: list[object] = []
    bench = _bench(sampler := _Pressing(1), steps.append)
    with bench.interrupt.held(), pytest.raises(KeyboardInterrupt):
        bench.epoch(math.inf, with_memory=False)
    assert (sampler.finished, len(steps)) == ([0, 1], 2)


def test_second_interrupt_does_not_wait():
    """Pressed twice, it comes out of the middle of the second batch: one that hangs can be left."""
    bench = _bench(sampler := _Pressing(2), lambda batch: None)
    with bench.interrupt.held(), pytest.raises(KeyboardInterrupt):
        bench.epoch(math.inf, with_memory=False)
    assert sampler.finished == [0]


def test_interrupt_is_as_before_afterwards():
    """Whatever handled it before the sweep does so after it."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupt().held():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_interrupt_stays_ignored():
    """As in a command that a script starts in the background, which goes on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with (interrupt := Interrupt()).held():
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.is_asked
    finally:
        signal.signal(signal.SIGINT, before)


class _Starting:
    """As a loader with a worker: its iterator gives the signals blocked in a process that it starts."""

    num_workers = 1

    def __init__(self, start: str) -> None:
        self.multiprocessing_context = multiprocessing.get_context(start)

    def __iter__(self) -> Iterator[object]:
        with self.multiprocessing_context.Pool(1) as pool:
            return iter(pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ())))


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_do_not_hear_the_terminal(start):
    """What `iter()` starts, in whatever way, has Ctrl-C blocked; the sweep itself has it not."""
    assert signal.SIGINT in started(_Starting(start))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
