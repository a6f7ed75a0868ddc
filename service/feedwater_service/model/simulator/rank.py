"""The main processes of a simulated pod: each takes batches and makes steps, a barrier joins the ranks.

A step is the host's own work, and under CUDA work that it leaves to the device. The host goes on and is held
only when it is `Workload.run_ahead` steps ahead of the device. Under DDP a step is over on all ranks at once,
so a rank that is done waits for the others inside its step, or its device does.
"""

from __future__ import annotations

from dataclasses import dataclass

from feedwater_service.model.simulator.dataloader import BatchIterator, batch_iterator
from feedwater_service.model.simulator.engine import Callback, EventLoop, Thread
from feedwater_service.model.simulator.workload import BackgroundLoad, Workload
from feedwater_service.model.types import LoaderSettings


class Barrier:
    """The end of each step, which all ranks reach together."""

    def __init__(self, loop: EventLoop, ranks: int) -> None:
        self.ranks = ranks
        self.idle: list[float] = []
        """Shape (steps,), seconds: how long the first rank's device had nothing to do before each."""
        self.ends: list[float] = []
        """Shape (steps,): when each was over."""
        self._cpu = loop.cpu
        self._begun: list[list[float]] = [[] for _ in range(ranks)]
        self._busy: list[list[float]] = [[] for _ in range(ranks)]
        self._waiting: list[tuple[int, Thread, Callback]] = []

    def begin(self, rank: int, busy_seconds: float) -> None:
        """Start a rank's next step on its device, which takes ``busy_seconds`` for it."""
        self._begun[rank].append(self._cpu.now)
        self._busy[rank].append(busy_seconds)
        step = len(self.ends)
        if all(len(begun) > step for begun in self._begun):
            self._within_tolerance(step)

    def wait(self, step: int, thread: Thread, then: Callback) -> None:
        """Call back when a step is over on all ranks."""
        if step >= len(self.ends):
            self._waiting.append((step, thread, then))
        elif step < 0 or self.ends[step] <= self._cpu.now:
            then()
        else:
            thread.sleep(self.ends[step] - self._cpu.now, then)

    def _within_tolerance(self, step: int) -> None:
        before = self.ends[-1] if self.ends else self._begun[0][0]
        starts = [max(before, begun[step]) for begun in self._begun]
        self.idle.append(starts[0] - before)
        self.ends.append(max(s + busy[step] for s, busy in zip(starts, self._busy, strict=True)))
        waiting, self._waiting = self._waiting, []
        for ordinal, thread, then in waiting:
            if ordinal > step:
                self._waiting.append((ordinal, thread, then))
            else:
                # By an event, never at once: the rank that closed the step has not gone on itself yet.
                thread.sleep(max(0.0, self.ends[ordinal] - self._cpu.now), then)


@dataclass(slots=True)
class _ZippedIterator:
    """The iterator of another loader, whose batches the loop takes in turn with ours."""

    iterator: BatchIterator
    per_batch: float
    due: float = 0.0


class Rank:
    """One training process: its loaders, its steps."""

    def __init__(
        self,
        loop: EventLoop,
        number: int,
        work: Workload,
        settings: LoaderSettings,
        batches: int,
        simulated: int,
        barrier: Barrier | None = None,
    ) -> None:
        self.asked: list[float] = []
        """Shape (batches,), seconds: when ``next()`` was called."""
        self.got: list[float] = []
        """Shape (batches,), seconds: when it returned."""
        self.end = 0.0
        self._loop = loop
        self._cpu = loop.cpu
        self._number = number
        self._main = Thread(loop)
        self._steps = work.steps
        self._width = work.step_width
        self._device = work.device
        self._run_ahead = work.run_ahead if work.device else 0
        self._syncs = bool(work.device) and work.run_ahead == 0
        self._simulated = simulated
        self._barrier = barrier
        self._member = number if barrier is not None and barrier.ranks > 1 else 0
        self.iterator = batch_iterator(loop, self._main, work, settings, batches)
        self._zipped = [
            _ZippedIterator(
                batch_iterator(loop, self._main, x.work, x.settings, int(batches * x.per_batch) + 2),
                x.per_batch,
            )
            for x in work.colocation.zipped
        ]
        self._unstarted = [self.iterator, *(x.iterator for x in self._zipped)]

    def start(self) -> None:
        """Make the iterators one after another, then begin the first iteration."""
        if self._unstarted:
            self._unstarted.pop(0).start(self.start)
            return
        self.asked.append(0.0)
        self.iterator.next(self._get)

    def device_times(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return how long the device was idle before each step, and when each ended; empty without one."""
        if self._barrier is None or not self._device:
            return (), ()
        return tuple(self._barrier.idle), tuple(self._barrier.ends)

    def _iterate(self) -> None:
        if len(self.got) == self._simulated:
            self.end = max(self._cpu.now, 1e-12)
            if self._number == 0:
                self._loop.stopped = True
            return
        self.asked.append(self._cpu.now)
        self.iterator.next(self._get)

    def _get(self) -> None:
        self.got.append(self._cpu.now)
        for other in self._zipped:
            other.due += other.per_batch
        self._take_zipped()

    def _take_zipped(self) -> None:
        for other in self._zipped:
            if other.due >= 1.0:
                other.due -= 1.0
                other.iterator.next(self._take_zipped)
                return
        self._step()

    def _step(self) -> None:
        ordinal = len(self.got) - 1
        if self._device and self._barrier is not None:
            self._barrier.begin(self._member, self._device[ordinal % len(self._device)])
        cpu = self._steps[ordinal % len(self._steps)][0]
        if cpu > 0:
            self._main.compute(cpu, self._computed, self._width)
        else:
            self._computed()

    def _computed(self) -> None:
        if self._syncs:
            # What is left of the step comes after the device's result.
            self._meet(self._sleep)
        else:
            self._sleep()

    def _sleep(self) -> None:
        cpu, timed = self._steps[(len(self.got) - 1) % len(self._steps)]
        if timed > 0 or cpu <= 0:
            self._main.sleep(timed, self._end_step)
        else:
            self._end_step()

    def _end_step(self) -> None:
        if self._barrier is None or self._syncs:
            self._iterate()
            return
        if not self._device:
            self._barrier.begin(self._member, 0.0)
        self._meet(self._iterate)

    def _meet(self, then: Callback) -> None:
        assert self._barrier is not None
        self._barrier.wait(len(self.got) - 1 - self._run_ahead, self._main, then)


MAX_BACKGROUND_CORES = 1024
"""Of one rank's background load, a thread each: more than a machine has. A loader that reports months of CPU
time in a second would else begin threads until memory ends."""


class BackgroundThread:
    """One thread that computes and sleeps, independent of the loaders."""

    def __init__(self, loop: EventLoop, share: float, burst_seconds: float) -> None:
        self._burst = burst_seconds
        self._pause = burst_seconds * (1.0 - share) / share
        self._thread = Thread(loop)
        self._thread.sleep(0.0, self._compute)

    def _compute(self) -> None:
        self._thread.compute(self._burst, self._rest)

    def _rest(self) -> None:
        self._thread.sleep(self._pause, self._compute)


def add_background(loop: EventLoop, load: BackgroundLoad, ranks: int, shortest: float) -> None:
    """Add the threads of the background load of each rank.

    Args:
        loop: The simulation's.
        load: Of one rank.
        ranks: How many are simulated.
        shortest: Seconds of the shortest burst: finer ones change nothing and cost events.
    """
    burst = max(load.burst_seconds, shortest, 1e-3)
    for _ in range(ranks):
        left = min(load.cores, MAX_BACKGROUND_CORES)
        while left > 1e-3:
            # One thread uses one core at most.
            BackgroundThread(loop, min(left, 1.0), burst)
            left -= 1.0
