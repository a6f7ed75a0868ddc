"""What a pod's ``DataLoader``s do with given work on a given machine: a simulation of their events.

Each rank is a main process (`rank.Rank`) that takes batches from an iterator (`loader.Workers`) and makes
steps; all of them, and what else computes in the pod, run side by side on one `bucket.Cores`. Ranks that keep
in step meet at a gate. Blocked and device time pass by themselves.

N equal ranks in lockstep on N times the machine do what one does on the machine, so of many ranks a few are
simulated, on their part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.engine import Clock
from feedwater_service.model.simulator.rank import Gate, Rank, add_neighbours
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.types import Settings

__all__ = ["Outcome", "Run", "Workload", "run_epoch", "simulate", "window_of"]

MANY_PERIODS = 10
"""Periods' quotas that a batch uses from which one more or less is under a tenth of it."""
SHORTEST_WINDOW = 100
"""Batches of each rank, where several are simulated: a queue of 25 workers is filled and used twice."""
RANKS_WINDOW = 300
"""Batches of all ranks together: side by side each costs half as much again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one simulated epoch came to, for the rank that is looked at."""

    batches: int
    seconds: float
    """Whole epoch, start-up and tear-down included."""
    start_up_seconds: float
    """Until the first batch is there."""
    wait_seconds: float
    """Of the epoch's batches but the first."""
    step_seconds: float
    cpu_seconds: float
    """Of the simulated part, of one rank on average."""
    frozen_seconds: float
    """Of the simulated part: runnable, without quota."""
    simulated_seconds: float
    """Length of that part."""
    device_starvation: float | None = None
    """Share of the time that the device had nothing to do, 0 to 1; None where it is not known."""

    def faster(self, factor: float) -> Outcome:
        """Return the same at a speed multiplied by a factor; what the epoch is made of keeps its shares."""
        return replace(
            self,
            seconds=self.seconds / factor,
            start_up_seconds=self.start_up_seconds / factor,
            wait_seconds=self.wait_seconds / factor,
            step_seconds=self.step_seconds / factor,
        )

    @property
    def batches_per_second(self) -> float:
        """Batches over the whole epoch."""
        return self.batches / self.seconds if self.seconds > 0 else 0.0

    @property
    def busy_cores(self) -> float:
        """CPUs in use on average."""
        return self.cpu_seconds / self.simulated_seconds if self.simulated_seconds > 0 else 0.0

    @property
    def host_starvation(self) -> float:
        """Share of iteration time that the host waited, the first batch apart."""
        whole = self.wait_seconds + self.step_seconds
        return self.wait_seconds / whole if whole > 0 else 0.0

    @property
    def starvation(self) -> float:
        """The device's where it is known, else the host's."""
        return self.host_starvation if self.device_starvation is None else self.device_starvation


@dataclass(frozen=True, slots=True)
class Run:
    """The simulated part of an epoch, as the rank sees it that is looked at."""

    asked: tuple[float, ...]
    """Shape (batches,), seconds: when ``next()`` was called."""
    got: tuple[float, ...]
    """Shape (batches,), seconds: when it returned."""
    made: tuple[float, ...]
    """Shape (batches,), seconds: when the load of each was through."""
    end: float
    cpu_seconds: float
    """Of one rank on average."""
    frozen_seconds: float
    runnable_seconds: float = 0.0
    """CPU time that all ranks' threads used or waited for."""
    device_idle: tuple[float, ...] = ()
    """Shape (batches,), seconds: how long the device was idle before each step; empty without one."""
    device_ends: tuple[float, ...] = ()
    """Shape (batches,), seconds: when it was through with each."""


def simulate(
    work: Workload, settings: Settings, machine: Machine, batches: int, window: int = 400
) -> Outcome:
    """Return what an epoch comes to.

    Args:
        work: What has to be done, and beside whom.
        settings: The loader's, in all ranks.
        machine: One rank's even part of what they run on; they share all parts.
        batches: Of the whole epoch.
        window: Batches simulated at most; the rest goes on as the last three quarters of them went.
    """
    ranks = 1 + len(work.company.peers)
    if ranks > 1:
        # Four rounds: what is primed at once must not be taken for the pace.
        window = min(window, max(window_of(ranks), 4 * settings.num_workers))
    simulated = max(1, min(batches, window))
    run = run_epoch(work, settings, machine, batches, simulated)
    return _extrapolate(
        run, batches, simulated, _teardown(work, settings, machine), max(1, settings.num_workers)
    )


def window_of(ranks: int) -> int:
    """Return how many batches of each rank are simulated."""
    return max(SHORTEST_WINDOW, RANKS_WINDOW // ranks)


def run_epoch(work: Workload, settings: Settings, machine: Machine, batches: int, simulated: int) -> Run:
    """Simulate the first batches of an epoch of ``batches``."""
    company = work.company
    ranks = 1 + len(company.peers)
    machine = machine.times(ranks)
    if _spans_periods(work, machine, ranks):
        machine = machine.smoothed()
    clock = Clock(machine)
    for beside in company.beside:
        add_neighbours(clock, beside, ranks, _pause(work, settings))
    gate = Gate(clock, ranks) if company.synchronised and ranks > 1 else None
    works = [work, *(work.of(peer) for peer in company.peers)]
    members = []
    for number, own in enumerate(works):
        meets = gate if gate is not None or not work.device else Gate(clock, 1)
        # Ranks that do not wait for each other go on while the one that is looked at needs them beside it;
        # a limit all the same, for work that takes no time would never end.
        upto = simulated if gate is not None or number == 0 else 4 * simulated
        members.append(Rank(clock, number, own, settings, max(batches, upto), upto, meets))
    for member in members:
        member.start()
    clock.run()
    first = members[0]
    return Run(
        tuple(first.asked),
        tuple(first.got),
        tuple(first.feed.made[:simulated]),
        first.end,
        clock.cores.busy_seconds / ranks,
        clock.cores.frozen_seconds,
        clock.cores.runnable_seconds / ranks,
        *first.device_times(),
    )


def _spans_periods(work: Workload, machine: Machine, ranks: int) -> bool:
    """Whether one batch takes so many periods' quota that their edges do not show, only cost events."""
    if machine.quota_cores is None:
        return False
    cpu = _mean(work.loads, 1) + _mean(work.steps, 0)
    return ranks * cpu > MANY_PERIODS * machine.quota_cores * machine.period_seconds


def _pause(work: Workload, settings: Settings) -> float:
    """A tenth of the time between two events of the loader: others need not be followed more closely."""
    cycle = sum(_mean(pairs, k) for pairs in (work.loads, work.steps) for k in (0, 1))
    return 0.1 * cycle / (settings.num_workers + 1)


def _mean(pairs: tuple[tuple[float, float], ...], k: int) -> float:
    return sum(pair[k] for pair in pairs) / len(pairs)


def _teardown(work: Workload, settings: Settings, machine: Machine) -> float:
    if settings.num_workers == 0:
        return 0.0
    return work.teardown_seconds + settings.num_workers * work.exit_cpu_seconds / min(1.0, machine.cores)


def _extrapolate(run: Run, batches: int, simulated: int, teardown: float, round_batches: int) -> Outcome:
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    rest = batches - simulated
    # The first quarter still lives on what was primed while the workers started; workers go in rounds.
    settled = simulated * 3 // 4
    settled = max(1, settled - settled % round_batches if settled >= round_batches else settled)
    steady = simulated - settled
    wait = sum(waits[1:]) + rest * sum(waits[steady:]) / settled
    step = sum(steps) + rest * sum(steps[steady:]) / settled
    start_up = run.got[0]
    return Outcome(
        batches,
        start_up + wait + step + teardown,
        start_up,
        wait,
        step,
        run.cpu_seconds,
        run.frozen_seconds,
        run.end,
        _device_starvation(run, settled),
    )


def _device_starvation(run: Run, settled: int) -> float | None:
    """Idle share of the device over the last steps; None without one."""
    ends, idle = run.device_ends, run.device_idle
    if len(ends) < 2:
        return None
    settled = min(settled, len(ends) - 1)
    whole = ends[-1] - ends[-1 - settled]
    return min(1.0, sum(idle[-settled:]) / whole) if whole > 0 else 0.0
