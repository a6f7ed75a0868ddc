"""The events of one simulation in order of time: threads compute on shared CPUs, or sleep."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextvars import ContextVar

from feedwater_service.model.numbers import grids
from feedwater_service.model.simulator.cpu import NEVER, CpuScheduler, Machine

Callback = Callable[[], None]


class SimulationLimitError(Exception):
    """A simulation was given up: it has too many events, or its caller has no more time for it."""


BEFORE_EVENTS: ContextVar[Callback] = ContextVar("BEFORE_EVENTS", default=lambda: None)
"""Called before each `grids.EVENTS_PER_CHECK` events of a simulation; it may raise `SimulationLimitError`.
The model has no clock: the caller sets this to limit its CPU time."""


class EventLoop:
    """All threads of one simulation, on one `CpuScheduler`."""

    __slots__ = ("cpu", "stopped", "threads", "timers")

    def __init__(self, machine: Machine) -> None:
        self.cpu = CpuScheduler(machine)
        self.timers: list[tuple[float, int]] = []
        self.threads: list[Thread] = []
        self.stopped = False
        """Set by the thread that has simulated enough."""

    def run(self, max_refills: float = NEVER) -> bool:
        """Handle events until one of them stops the loop.

        Args:
            max_refills: Periods of the CPU quota, looked at each `grids.EVENTS_PER_CHECK` events.

        Returns:
            Whether it was stopped by an event; False after more periods than that.

        Raises:
            RuntimeError: No event is left, and the loop was not stopped.
            SimulationLimitError: It has more than `grids.MAX_EVENTS`, or `BEFORE_EVENTS` said so.
        """
        check = BEFORE_EVENTS.get()
        for _ in range(grids.MAX_EVENTS // grids.EVENTS_PER_CHECK):
            check()
            self._handle(grids.EVENTS_PER_CHECK)
            if self.stopped:
                return True
            if self.cpu.refills > max_refills:
                return False
        raise SimulationLimitError(f"more than {grids.MAX_EVENTS} events in one simulation")

    def _handle(self, count: int) -> None:
        """Handle a number of events, fewer if one of them stops the loop."""
        timers, threads, cpu = self.timers, self.threads, self.cpu
        run, pop = cpu.run, heapq.heappop
        for _ in range(count):
            if self.stopped:
                return
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
