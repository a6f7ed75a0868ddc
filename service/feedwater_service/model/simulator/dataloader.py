"""The iterator of a simulated ``DataLoader``, with and without workers.

As in ``torch/utils/data/dataloader.py``: `iter()` starts the workers one after another and primes
``num_workers * prefetch_factor`` indices, dealt round-robin; each delivered batch puts one index more; a
worker makes its batches in the order it got them; the main process takes finished batches from one queue in
the order of arrival, pays for each, and keeps those that are not yet due (unless ``in_order=False``). With
``pin_memory`` a thread of the main process takes them instead, copies each, and the main process takes the
copies. With ``num_workers=0`` the main process makes each batch itself when asked.

A thread of the worker passes a batch's tensors, and answers the main process several times for each. A worker
that computes in Python releases its interpreter lock every 5 ms, and at the end of a load. Each answer waits
for that switch, and the main process with it: 2.4 ms a batch were measured beside loads of 8 ms.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Protocol

from feedwater_service.model.numbers import costs
from feedwater_service.model.simulator.engine import Callback, EventLoop, Thread
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.types import LoaderSettings


class BatchIterator(Protocol):
    """An iterator over batches, used by the main thread of its rank."""

    loaded: list[float]
    """Seconds: when the load of each batch ended."""

    def start(self, then: Callback) -> None:
        """Do what ``iter()`` does."""

    def next(self, then: Callback) -> None:
        """Do what ``next()`` does, and call back when it returns."""


def batch_iterator(
    loop: EventLoop, main: Thread, work: Workload, settings: LoaderSettings, batches: int
) -> BatchIterator:
    """Return an iterator over ``batches`` batches."""
    if settings.num_workers == 0:
        return SingleProcessIterator(loop, main, work)
    return MultiProcessIterator(loop, main, work, settings, batches)


class SingleProcessIterator:
    """The iterator at ``num_workers=0``: the main process loads each batch when it is asked for."""

    def __init__(self, loop: EventLoop, main: Thread, work: Workload) -> None:
        self.loaded: list[float] = []
        self._cpu = loop.cpu
        self._main = main
        self._loads = work.loads
        self._width = work.load_width
        self._besides = work.inline_cpu_seconds + work.pin_cpu_seconds
        self._then: Callback = lambda: None

    def start(self, then: Callback) -> None:
        """Do what ``iter()`` does: nothing that takes time."""
        then()

    def next(self, then: Callback) -> None:
        """Make the next batch."""
        self._then = then
        blocked = self._loads[len(self.loaded) % len(self._loads)][0]
        if blocked > 0:
            self._main.sleep(blocked, self._compute)
        else:
            self._compute()

    def _compute(self) -> None:
        cpu = self._loads[len(self.loaded) % len(self._loads)][1]
        if cpu > 0:
            self._main.compute(cpu, self._finish, self._width)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._besides > 0:
            self._main.compute(self._besides, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        self.loaded.append(self._cpu.now)
        self._then()


class MultiProcessIterator:
    """The iterator with workers: their index queues, and the one queue of their results."""

    def __init__(
        self, loop: EventLoop, main: Thread, work: Workload, settings: LoaderSettings, batches: int
    ) -> None:
        self._cpu = loop.cpu
        self._main = main
        self._work = work
        self._loads = work.loads
        self._count = settings.num_workers
        self._in_order = settings.in_order
        self._prefetch = settings.prefetch_factor or 2
        self._batches = batches
        # The main process first, then the workers: of two that are ready at once it goes first.
        self._pin = Thread(loop) if work.pin_cpu_seconds > 0 else None
        self._taker = main if self._pin is None else self._pin
        self._gil_timer = Thread(loop, self._switch_due)
        self._server = Thread(loop)
        self._threads = [Thread(loop) for _ in range(self._count)]
        self._computed = [partial(self._load_done, w) for w in range(self._count)]
        self._unblocked = [partial(self._compute, w) for w in range(self._count)]
        self._queues: list[deque[int]] = [deque() for _ in range(self._count)]
        self._tasks = [0] * self._count
        # What each worker does: a batch's number, -1 while it boots, None when it waits for an index.
        self._current: list[int | None] = [-1] * self._count
        self._holds_gil = [False] * self._count
        self.loaded: list[float] = []
        self._next_worker = 0
        self._worker_of: list[int] = []
        self._sent = 0
        self._results: deque[int] = deque()
        # The queue that the main process reads: the results themselves, or the pinned copies of them.
        self._ready: deque[int] = self._results if self._pin is None else deque()
        self._pinning: int | None = None
        self._out_of_order: set[int] = set()
        self._due = 0
        self._receiving = 0
        self._main_waits = False
        self._forked = 0
        self._gil_holder = -1
        self._after_gil: Callback = lambda: None
        self._switches_left = 0
        self._switch_at = 0.0
        self._then: Callback = lambda: None

    # The main process

    def start(self, then: Callback) -> None:
        """Start one worker after another, then prime the queues."""
        self._then = then
        self._main.compute(self._work.fork_cpu_seconds, self._fork)

    def _fork(self) -> None:
        worker = self._forked
        self._threads[worker].compute(self._work.boot_cpu_seconds, self._computed[worker])
        self._forked += 1
        if self._forked < self._count:
            self._main.compute(self._work.fork_cpu_seconds, self._fork)
            return
        # A prefetch factor above the batches of the epoch primes no more than these.
        for _ in range(min(self._prefetch * self._count, self._batches)):
            self._put_index()
        self._then()

    def next(self, then: Callback) -> None:
        """Take the batch that is due."""
        self._then = then
        self._advance()

    def _advance(self) -> None:
        """Deliver the batch that is due, or receive the next one that arrived, or wait for one."""
        if self._due in self._out_of_order:
            self._out_of_order.remove(self._due)
            self._deliver(self._due)
        elif self._ready:
            self._receiving = self._ready.popleft()
            if self._pin is None:
                self._pass(self._receiving, self._receive)
            else:
                self._received()
        else:
            self._main_waits = True

    def _receive(self) -> None:
        self._main.compute(self._work.receive_cpu_seconds, self._serve)

    def _serve(self) -> None:
        """Have the worker's thread pass the descriptors, after the main process' own part."""
        if self._work.pass_cpu_seconds > 0:
            self._server.compute(self._work.pass_cpu_seconds, self._wake)
        else:
            self._wake()

    def _wake(self) -> None:
        then = self._received if self._pin is None else self._copied
        if self._work.wake_seconds > 0:
            self._taker.sleep(self._work.wake_seconds, then)
        else:
            then()

    def _received(self) -> None:
        batch = self._receiving
        if batch == self._due or not self._in_order:
            self._deliver(batch)
        else:
            self._out_of_order.add(batch)
            self._advance()

    def _deliver(self, batch: int) -> None:
        self._due += 1
        self._tasks[self._worker_of[batch]] -= 1
        self._put_index()
        self._then()

    def _arrived(self) -> None:
        if self._main_waits:
            self._main_waits = False
            self._advance()

    # The thread that pins

    def _pin_next(self) -> None:
        if self._pinning is None and self._results:
            self._pinning = self._results.popleft()
            self._pass(self._pinning, self._copy)

    def _copy(self) -> None:
        self._taker.compute(self._work.receive_cpu_seconds + self._work.pin_cpu_seconds, self._serve)

    def _copied(self) -> None:
        assert self._pinning is not None
        self._ready.append(self._pinning)
        self._pinning = None
        self._pin_next()
        self._arrived()

    # The interpreter lock of the worker that a batch is taken from

    def _pass(self, batch: int, then: Callback) -> None:
        worker = self._worker_of[batch]
        if self._work.gil_switches == 0 or not self._holds_gil[worker]:
            then()
            return
        self._gil_holder, self._after_gil, self._switches_left = worker, then, self._work.gil_switches
        self._await_switch()

    def _await_switch(self) -> None:
        self._switch_at = self._cpu.now + costs.GIL_SWITCH_SECONDS
        self._gil_timer.sleep(costs.GIL_SWITCH_SECONDS, self._switch_due)

    def _switch_due(self) -> None:
        # A switch that the end of a load brought forward still has its timer.
        if self._gil_holder >= 0 and self._cpu.now >= self._switch_at:
            self._switched()

    def _switched(self) -> None:
        """Count one switch of the lock; go on after the last one, or when the worker computes no more."""
        self._switches_left -= 1
        if self._switches_left <= 0 or not self._holds_gil[self._gil_holder]:
            self._gil_holder = -1
            self._after_gil()
        else:
            self._await_switch()

    # Index queues

    def _put_index(self) -> None:
        if self._sent >= self._batches:
            return
        worker = self._next_worker
        # With in_order=False, workers whose queue is full are passed over.
        while not self._in_order and self._tasks[worker] >= self._prefetch:
            worker = (worker + 1) % self._count
        self._next_worker = (worker + 1) % self._count
        self._queues[worker].append(self._sent)
        self._worker_of.append(worker)
        self.loaded.append(0.0)
        self._tasks[worker] += 1
        self._sent += 1
        if self._current[worker] is None:
            self._take_index(worker)

    # The workers

    def _take_index(self, worker: int) -> None:
        if not self._queues[worker]:
            self._current[worker] = None
            return
        batch = self._queues[worker].popleft()
        self._current[worker] = batch
        blocked = self._loads[batch % len(self._loads)][0]
        if batch < self._count:
            blocked += self._work.first_blocked_seconds
        if blocked > 0:
            self._threads[worker].sleep(blocked, self._unblocked[worker])
        else:
            self._compute(worker)

    def _compute(self, worker: int) -> None:
        batch = self._current[worker]
        assert batch is not None
        cpu = self._loads[batch % len(self._loads)][1] + self._work.send_cpu_seconds
        if batch < self._count:
            cpu += self._work.first_cpu_seconds
        self._holds_gil[worker] = True
        self._threads[worker].compute(cpu, self._computed[worker], self._work.load_width)

    def _load_done(self, worker: int) -> None:
        batch = self._current[worker]
        self._holds_gil[worker] = False
        self._take_index(worker)
        if self._gil_holder == worker:
            self._switched()
        if batch is None or batch < 0:
            return
        self.loaded[batch] = self._cpu.now
        self._results.append(batch)
        if self._pin is None:
            self._arrived()
        else:
            self._pin_next()
