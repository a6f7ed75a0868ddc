"""The main processes of a simulated pod: each takes batches and makes steps; a gate keeps ranks together.

A step is the host's own work, and under CUDA work that it leaves to the device. The host goes on and is held
only when it is `Workload.run_ahead` steps ahead of the device. Under DDP a step is over on all ranks at once,
so a rank that is done waits for the others inside its step, or its device does.
"""

from __future__ import annotations

from dataclasses import dataclass

from feedwater_service.model.simulator.dataloader import Feed, feed_of
from feedwater_service.model.simulator.engine import Clock, Then, Thread
from feedwater_service.model.simulator.workload import Beside, Workload
from feedwater_service.model.types import Settings


class Gate:
    """The ends of steps, which all ranks reach together."""

    def __init__(self, clock: Clock, ranks: int) -> None:
        self.ranks = ranks
        self.idle: list[float] = []
        """Shape (steps,), seconds: how long the first rank's device had nothing to do before each."""
        self.ends: list[float] = []
        """Shape (steps,): when each was over."""
        self._cores = clock.cores
        self._begun: list[list[float]] = [[] for _ in range(ranks)]
        self._busy: list[list[float]] = [[] for _ in range(ranks)]
        self._waiting: list[tuple[int, Thread, Then]] = []

    def begin(self, rank: int, busy_seconds: float) -> None:
        """Leave a rank's next step to its device, for so long at least."""
        self._begun[rank].append(self._cores.now)
        self._busy[rank].append(busy_seconds)
        step = len(self.ends)
        if all(len(begun) > step for begun in self._begun):
            self._close(step)

    def wait(self, step: int, thread: Thread, then: Then) -> None:
        """Go on when a step is over."""
        if step >= len(self.ends):
            self._waiting.append((step, thread, then))
        elif step < 0 or self.ends[step] <= self._cores.now:
            then()
        else:
            thread.sleep(self.ends[step] - self._cores.now, then)

    def _close(self, step: int) -> None:
        before = self.ends[-1] if self.ends else self._begun[0][0]
        starts = [max(before, begun[step]) for begun in self._begun]
        self.idle.append(starts[0] - before)
        self.ends.append(max(s + busy[step] for s, busy in zip(starts, self._busy, strict=True)))
        waiting, self._waiting = self._waiting, []
        for ordinal, thread, then in waiting:
            if ordinal > step:
                self._waiting.append((ordinal, thread, then))
            else:
                # Through the clock, never at once: the rank that closed the step has not gone on itself yet.
                thread.sleep(max(0.0, self.ends[ordinal] - self._cores.now), then)


@dataclass(slots=True)
class _Side:
    """Another loader of the rank, taken from between two batches of ours."""

    feed: Feed
    per_batch: float
    due: float = 0.0


class Rank:
    """One training process: its loaders, its steps."""

    def __init__(
        self,
        clock: Clock,
        number: int,
        work: Workload,
        settings: Settings,
        batches: int,
        simulated: int,
        gate: Gate | None = None,
    ) -> None:
        self.asked: list[float] = []
        """Shape (batches,), seconds: when ``next()`` was called."""
        self.got: list[float] = []
        """Shape (batches,), seconds: when it returned."""
        self.end = 0.0
        self._clock = clock
        self._cores = clock.cores
        self._number = number
        self._main = Thread(clock)
        self._steps = work.steps
        self._width = work.step_width
        self._device = work.device
        self._run_ahead = work.run_ahead if work.device else 0
        self._syncs = bool(work.device) and work.run_ahead == 0
        self._simulated = simulated
        self._gate = gate
        self._place = number if gate is not None and gate.ranks > 1 else 0
        self.feed = feed_of(clock, self._main, work, settings, batches)
        self._sides = [
            _Side(feed_of(clock, self._main, x.work, x.settings, int(batches * x.per_batch) + 2), x.per_batch)
            for x in work.company.lanes
        ]
        self._unstarted = [self.feed, *(s.feed for s in self._sides)]

    def start(self) -> None:
        """Make the iterators one after another, then begin the first iteration."""
        if self._unstarted:
            self._unstarted.pop(0).start(self.start)
            return
        self.asked.append(0.0)
        self.feed.ask(self._get)

    def device_times(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return how long the device was idle before each step, and when each ended; empty without one."""
        if self._gate is None or not self._device:
            return (), ()
        return tuple(self._gate.idle), tuple(self._gate.ends)

    def _iterate(self) -> None:
        if len(self.got) == self._simulated:
            self.end = max(self._cores.now, 1e-12)
            if self._number == 0:
                self._clock.over = True
            return
        self.asked.append(self._cores.now)
        self.feed.ask(self._get)

    def _get(self) -> None:
        self.got.append(self._cores.now)
        for side in self._sides:
            side.due += side.per_batch
        self._ask_sides()

    def _ask_sides(self) -> None:
        for side in self._sides:
            if side.due >= 1.0:
                side.due -= 1.0
                side.feed.ask(self._ask_sides)
                return
        self._step()

    def _step(self) -> None:
        ordinal = len(self.got) - 1
        if self._device and self._gate is not None:
            self._gate.begin(self._place, self._device[ordinal % len(self._device)])
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
        if self._gate is None or self._syncs:
            self._iterate()
            return
        if not self._device:
            self._gate.begin(self._place, 0.0)
        self._meet(self._iterate)

    def _meet(self, then: Then) -> None:
        assert self._gate is not None
        self._gate.wait(len(self.got) - 1 - self._run_ahead, self._main, then)


class Neighbour:
    """One thread that computes beside the loaders and does not keep step with them."""

    def __init__(self, clock: Clock, share: float, burst_seconds: float) -> None:
        self._burst = burst_seconds
        self._pause = burst_seconds * (1.0 - share) / share
        self._thread = Thread(clock)
        self._thread.sleep(0.0, self._compute)

    def _compute(self) -> None:
        self._thread.compute(self._burst, self._rest)

    def _rest(self) -> None:
        self._thread.sleep(self._pause, self._compute)


def add_neighbours(clock: Clock, beside: Beside, ranks: int, shortest: float) -> None:
    """Add the threads of what computes beside each rank.

    Args:
        clock: The simulation's.
        beside: Of one rank.
        ranks: How many are simulated.
        shortest: Seconds below which bursts are put together: what is finer does not show, only cost events.
    """
    burst = max(beside.burst_seconds, shortest, 1e-3)
    for _ in range(ranks):
        left = beside.cores
        while left > 1e-3:
            # One thread uses one core at most.
            Neighbour(clock, min(left, 1.0), burst)
            left -= 1.0
