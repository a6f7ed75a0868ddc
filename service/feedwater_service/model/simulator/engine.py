"""The clock of one simulation: threads that compute on shared CPUs or sleep, in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from feedwater_service.model.simulator.cpu import NEVER, Cores, Machine

Then = Callable[[], None]


class Clock:
    """All threads of one simulation, on one `Cores`."""

    __slots__ = ("cores", "over", "threads", "timers")

    def __init__(self, machine: Machine) -> None:
        self.cores = Cores(machine)
        self.timers: list[tuple[float, int]] = []
        self.threads: list[Thread] = []
        self.over = False
        """Set by whoever has seen enough."""

    def run(self) -> None:
        """Let time pass until it is over.

        Raises:
            RuntimeError: Nobody does anything, and nobody has said that it is over.
        """
        timers, threads, cores = self.timers, self.threads, self.cores
        run, pop = cores.run, heapq.heappop
        while not self.over:
            until = timers[0][0] if timers else NEVER
            if until is NEVER and cores.is_idle:
                raise RuntimeError("simulated loader is stuck: no event left")
            through = run(until)
            # At one moment a timer goes first only if nobody's CPU time is through then.
            sleeper = pop(timers)[1] if timers and timers[0][0] <= cores.now else -1
            if through >= 0:
                threads[through].then()
            if sleeper >= 0:
                threads[sleeper].then()


class Thread:
    """What does one thing at a time, and says what comes after it."""

    __slots__ = ("_cores", "_number", "_timers", "then")

    def __init__(self, clock: Clock, then: Then = lambda: None) -> None:
        self._cores = clock.cores
        self._timers = clock.timers
        self._number = len(clock.threads)
        self.then = then
        clock.threads.append(self)

    def compute(self, seconds: float, then: Then, width: float = 1.0) -> None:
        """Use CPU time, keeping ``width`` CPUs busy."""
        self.then = then
        self._cores.start(self._number, seconds, width)

    def sleep(self, seconds: float, then: Then) -> None:
        """Let time pass."""
        self.then = then
        heapq.heappush(self._timers, (self._cores.now + seconds, self._number))
