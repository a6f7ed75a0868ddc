"""One iterator of a simulated ``DataLoader``: where the loop's next batch comes from.

As in ``torch/utils/data/dataloader.py``: `iter()` starts the workers one after another and primes
``num_workers * prefetch_factor`` indices, dealt round-robin; each delivered batch puts one index more; a
worker makes its batches in the order it got them; the main process takes finished batches from one queue in
the order of arrival, pays for each, and keeps those that are not yet due (unless ``in_order=False``). With
``pin_memory`` a thread of the main process takes them instead, copies each, and the main process takes the
copies. With ``num_workers=0`` the main process makes each batch itself when asked.

A batch's tensors are passed by a thread of its worker, which answers the main process several times for each.
A worker that computes in Python lets go of its interpreter lock every 5 ms, and when a load is made; each
answer waits for that, and the main process with it: 2.4 ms a batch were measured beside loads of 8 ms.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Protocol

from feedwater_service.model.simulator.engine import Clock, Then, Thread
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.types import Settings

SWITCH_SECONDS = 0.005
"""Python's switch interval: how long a computing thread keeps the interpreter lock from others."""


class Feed(Protocol):
    """An iterator over batches, used by the main thread of its rank."""

    made: list[float]
    """When the load of each batch was through."""

    def start(self, then: Then) -> None:
        """Do what ``iter()`` does."""

    def ask(self, then: Then) -> None:
        """Do what ``next()`` does; ``then`` is called when it returns."""


def feed_of(clock: Clock, main: Thread, work: Workload, settings: Settings, batches: int) -> Feed:
    """Return an iterator over ``batches`` batches."""
    if settings.num_workers == 0:
        return Inline(clock, main, work)
    return Workers(clock, main, work, settings, batches)


class Inline:
    """The main process does everything, one thing after another."""

    def __init__(self, clock: Clock, main: Thread, work: Workload) -> None:
        self.made: list[float] = []
        self._cores = clock.cores
        self._main = main
        self._loads = work.loads
        self._width = work.load_width
        self._besides = work.inline_cpu_seconds + work.pin_cpu_seconds
        self._then: Then = lambda: None

    def start(self, then: Then) -> None:
        """Do what ``iter()`` does: nothing that takes time."""
        then()

    def ask(self, then: Then) -> None:
        """Make the next batch."""
        self._then = then
        blocked = self._loads[len(self.made) % len(self._loads)][0]
        if blocked > 0:
            self._main.sleep(blocked, self._compute)
        else:
            self._compute()

    def _compute(self) -> None:
        cpu = self._loads[len(self.made) % len(self._loads)][1]
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
        self.made.append(self._cores.now)
        self._then()


class Workers:
    """Worker processes, their index queues, and the queue of their results."""

    def __init__(self, clock: Clock, main: Thread, work: Workload, settings: Settings, batches: int) -> None:
        self._cores = clock.cores
        self._main = main
        self._work = work
        self._loads = work.loads
        self._count = settings.num_workers
        self._in_order = settings.in_order
        self._prefetch = settings.prefetch_factor or 2
        self._batches = batches
        # The main process first, then the workers: of two that are ready at once it goes first.
        self._pin = Thread(clock) if work.pin_cpu_seconds > 0 else None
        self._taker = main if self._pin is None else self._pin
        self._turn = Thread(clock, self._turn_over)
        self._server = Thread(clock)
        self._threads = [Thread(clock) for _ in range(self._count)]
        self._computed = [partial(self._load_done, w) for w in range(self._count)]
        self._unblocked = [partial(self._compute, w) for w in range(self._count)]
        self._queues: list[deque[int]] = [deque() for _ in range(self._count)]
        self._tasks = [0] * self._count
        # What a worker is doing: a batch's number, -1 while it boots, None when it waits for an index.
        self._making: list[int | None] = [-1] * self._count
        self._computes = [False] * self._count
        self.made: list[float] = []
        self._next_worker = 0
        self._makers: list[int] = []
        self._sent = 0
        self._results: deque[int] = deque()
        # What the main process takes from: the results themselves, or the copies of them.
        self._ready: deque[int] = self._results if self._pin is None else deque()
        self._pinning: int | None = None
        self._kept: set[int] = set()
        self._due = 0
        self._receiving = 0
        self._wants = False
        self._forked = 0
        self._held_by = -1
        self._held: Then = lambda: None
        self._turns = 0
        self._turn_at = 0.0
        self._then: Then = lambda: None

    # The main process

    def start(self, then: Then) -> None:
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
        for _ in range(self._prefetch * self._count):
            self._put_index()
        self._then()

    def ask(self, then: Then) -> None:
        """Take the batch that is due."""
        self._then = then
        self._want()

    def _want(self) -> None:
        """Go on with the batch that is due, or take what has arrived, or wait."""
        if self._due in self._kept:
            self._kept.remove(self._due)
            self._deliver(self._due)
        elif self._ready:
            self._receiving = self._ready.popleft()
            if self._pin is None:
                self._pass(self._receiving, self._receive)
            else:
                self._received()
        else:
            self._wants = True

    def _receive(self) -> None:
        self._main.compute(self._work.receive_cpu_seconds, self._serve)

    def _serve(self) -> None:
        """Let the worker's thread pass the descriptors; both sides take turns, one after the other here."""
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
            self._kept.add(batch)
            self._want()

    def _deliver(self, batch: int) -> None:
        self._due += 1
        self._tasks[self._makers[batch]] -= 1
        self._put_index()
        self._then()

    def _arrived(self) -> None:
        if self._wants:
            self._wants = False
            self._want()

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

    def _pass(self, batch: int, then: Then) -> None:
        worker = self._makers[batch]
        if self._work.lock_turns == 0 or not self._computes[worker]:
            then()
            return
        self._held_by, self._held, self._turns = worker, then, self._work.lock_turns
        self._await_turn()

    def _await_turn(self) -> None:
        self._turn_at = self._cores.now + SWITCH_SECONDS
        self._turn.sleep(SWITCH_SECONDS, self._turn_over)

    def _turn_over(self) -> None:
        # A turn that a finished load ended earlier still has its timer.
        if self._held_by >= 0 and self._cores.now >= self._turn_at:
            self._take_turn()

    def _take_turn(self) -> None:
        """The lock was let go of: one answer less to wait for, none if the worker computes no more."""
        self._turns -= 1
        if self._turns <= 0 or not self._computes[self._held_by]:
            self._held_by = -1
            self._held()
        else:
            self._await_turn()

    # Index queues

    def _put_index(self) -> None:
        if self._sent >= self._batches:
            return
        worker = self._next_worker
        # Out of order, the turn passes over workers that have their fill.
        while not self._in_order and self._tasks[worker] >= self._prefetch:
            worker = (worker + 1) % self._count
        self._next_worker = (worker + 1) % self._count
        self._queues[worker].append(self._sent)
        self._makers.append(worker)
        self.made.append(0.0)
        self._tasks[worker] += 1
        self._sent += 1
        if self._making[worker] is None:
            self._take_index(worker)

    # The workers

    def _take_index(self, worker: int) -> None:
        if not self._queues[worker]:
            self._making[worker] = None
            return
        batch = self._queues[worker].popleft()
        self._making[worker] = batch
        blocked = self._loads[batch % len(self._loads)][0]
        if batch < self._count:
            blocked += self._work.first_blocked_seconds
        if blocked > 0:
            self._threads[worker].sleep(blocked, self._unblocked[worker])
        else:
            self._compute(worker)

    def _compute(self, worker: int) -> None:
        batch = self._making[worker]
        assert batch is not None
        cpu = self._loads[batch % len(self._loads)][1] + self._work.send_cpu_seconds
        if batch < self._count:
            cpu += self._work.first_cpu_seconds
        self._computes[worker] = True
        self._threads[worker].compute(cpu, self._computed[worker], self._work.load_width)

    def _load_done(self, worker: int) -> None:
        batch = self._making[worker]
        self._computes[worker] = False
        self._take_index(worker)
        if self._held_by == worker:
            self._take_turn()
        if batch is None or batch < 0:
            return
        self.made[batch] = self._cores.now
        self._results.append(batch)
        if self._pin is None:
            self._arrived()
        else:
            self._pin_next()
