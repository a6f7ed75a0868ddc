"""CPU contention: the share of the CPUs' time that other containers leave.

On a loaded node a runnable thread waits for a CPU although its own container uses far less than its limit.
The simulation knows how long it waits for threads of its own container; any longer delay is caused by others.
So the share of the CPUs' time is searched with which the simulated epoch waits as long as the measured one
did. A model in which each thread runs on a slower CPU was tried and is worse: containers get time by their
CPU requests, whatever the number of their threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from feedwater_service.model.numbers import floors, grids
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import simulate, simulate_batches
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.types import ContainerUsage, Epoch


def beside_others(
    machine: Machine, work: Workload, epoch: Epoch, stretch: float, step_delay: float | None = None
) -> tuple[Machine, Workload]:
    """Return the machine as it was while an epoch ran, and the work as it meets it.

    Args:
        machine: Were it ours alone.
        work: Fitted to the epoch.
        epoch: With the container's readings, where there are any.
        stretch: Times that the CPU bursts of loads took longer than undisturbed.
        step_delay: Seconds of a mean step that the main thread had no CPU, where that is known.
    """
    used = used_cores(epoch.containers)
    rate = summarise(epoch).batches_per_second
    if (
        stretch < floors.CONTENDED_MIN_STRETCH
        or rate <= 0
        or (used is not None and used > floors.OWN_USE_SHARE * machine.cores)
    ):
        return machine, work
    trial = _Trial(machine, work, epoch, step_delay)
    left = 1.0
    if step_delay is None and trial.rate(left) < floors.CONTENDED_MIN_LOSS * rate:
        # Whoever else computes there, it costs next to nothing.
        return machine, work
    if stretch >= floors.CONTENDED_MIN_EXCESS * trial.stretch(left):
        left = _smallest_share(floors.MIN_OBTAINABLE_SHARE, lambda at: trial.stretch(at) > stretch)
    if trial.rate(left) > floors.CONTENDED_MIN_MISS * rate:
        # Loads do not show all of it: the main process waits for a CPU, too, and starting takes longest.
        left = _smallest_share(floors.MIN_OBTAINABLE_SHARE, lambda at: trial.rate(at) < rate)
    return replace(machine, obtainable=left), with_step_delay(work, left, step_delay)


def with_step_delay(work: Workload, obtainable: float, delay: float | None) -> Workload:
    """Return the work with steps that contention delays as long as it delayed the main thread.

    The simulation stretches all CPU time by one factor. So the CPU time of a step is set to the amount that
    is delayed that long, and the rest of the step to timed. The undisturbed step keeps its length.

    Example: steps of 3 ms of CPU time and 7 ms of waiting, 0.6 ms delayed beside others that leave a quarter
    of the CPUs' time: 0.2 ms are CPU time, stretched to 0.8, and 9.8 ms are timed, 10.6 in all.
    """
    if delay is None or obtainable >= 1.0 or work.device:
        return work
    own = fmean(cpu + timed for cpu, timed in work.steps)
    if own <= 0:
        return work
    cpu = min(delay / (1 / obtainable - 1), own)
    share = cpu / own
    return replace(work, steps=tuple(((c + t) * share, (c + t) * (1 - share)) for c, t in work.steps))


def _smallest_share(least: float, is_too_slow: Callable[[float], bool]) -> float:
    """Return the share between ``least`` and 1 from which on it is not too slow."""
    slow, fast = least, 1.0
    for _ in range(grids.CONTENTION_HALVINGS):
        middle = math.sqrt(slow * fast)
        if is_too_slow(middle):
            slow = middle
        else:
            fast = middle
    return math.sqrt(slow * fast)


def used_cores(containers: Sequence[ContainerUsage]) -> float | None:
    """Return the cores that the container used on average; None where that was not read twice."""
    known = [(c.stamp_seconds, c.cpu_seconds) for c in containers if c.cpu_seconds is not None]
    if len(known) < 2 or known[-1][0] <= known[0][0]:
        return None
    (first, before), (last, after) = known[0], known[-1]
    return max(0.0, after - before) / (last - first)


@dataclass(frozen=True, slots=True)
class _Trial:
    """The epoch, simulated with other parts of the CPUs' time."""

    machine: Machine
    work: Workload
    epoch: Epoch
    step_delay: float | None

    def stretch(self, obtainable: float) -> float:
        """Return how many times longer CPU bursts take than undisturbed."""
        batches = min(self._batches, grids.CONTENTION_WINDOW // (1 + len(self.work.colocation.peers)))
        run = simulate_batches(
            self._work(obtainable), self.epoch.settings, self._at(obtainable), batches, batches
        )
        return max(1.0, run.runnable_seconds / run.cpu_seconds) if run.cpu_seconds > 0 else 1.0

    def rate(self, obtainable: float) -> float:
        """Return the batches per second of the whole epoch."""
        found = simulate(
            self._work(obtainable),
            self.epoch.settings,
            self._at(obtainable),
            self._batches,
            grids.CONTENTION_WINDOW,
        )
        return found.batches_per_second

    @property
    def _batches(self) -> int:
        return max(2, self.epoch.batches or len(self.epoch.waits))

    def _work(self, obtainable: float) -> Workload:
        return with_step_delay(self.work, obtainable, self.step_delay)

    def _at(self, obtainable: float) -> Machine:
        return replace(self.machine, obtainable=obtainable)
