"""The events of one simulation in order of time: threads compute on shared CPUs, or sleep."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from feedwater_service.model.simulator.cpu import NEVER, CpuScheduler, Machine

Callback = Callable[[], None]


class EventLoop:
    """All threads of one simulation, on one `CpuScheduler`."""

    __slots__ = ("cpu", "stopped", "threads", "timers")

    def __init__(self, machine: Machine) -> None:
        self.cpu = CpuScheduler(machine)
        self.timers: list[tuple[float, int]] = []
        self.threads: list[Thread] = []
        self.stopped = False
        """Set by the thread that has simulated enough."""

    def run(self) -> None:
        """Handle events until one of them stops the loop.

        Raises:
            RuntimeError: No event is left, and the loop was not stopped.
        """
        timers, threads, cpu = self.timers, self.threads, self.cpu
        run, pop = cpu.run, heapq.heappop
        while not self.stopped:
            until = timers[0][0] if timers else NEVER
            if until is NEVER and cpu.is_idle:
                raise RuntimeError("simulated loader is stuck: no event left")
            through = run(until)
            # At one moment a timer goes first only if no thread's CPU time ends then.
            sleeper = pop(timers)[1] if timers and timers[0][0] <= cpu.now else -1
            if through >= 0:
                threads[through].then()
            if sleeper >= 0:
                threads[sleeper].then()


class Thread:
    """A thread that computes or sleeps, then calls its callback."""

    __slots__ = ("_cpu", "_number", "_timers", "then")

    def __init__(self, loop: EventLoop, then: Callback = lambda: None) -> None:
        self._cpu = loop.cpu
        self._timers = loop.timers
        self._number = len(loop.threads)
        self.then = then
        loop.threads.append(self)

    def compute(self, seconds: float, then: Callback, width: float = 1.0) -> None:
        """Use CPU time, keeping ``width`` CPUs busy."""
        self.then = then
        self._cpu.start(self._number, seconds, width)

    def sleep(self, seconds: float, then: Callback) -> None:
        """Let time pass."""
        self.then = then
        heapq.heappush(self._timers, (self._cpu.now + seconds, self._number))
