"""What a pod's ``DataLoader``s do with given work on a given machine: a simulation of their events.

Each rank is a main process (`rank.Rank`) that takes batches from a `dataloader.BatchIterator` and makes
steps. All ranks, and whatever else computes in the pod, share one `cpu.CpuScheduler`. Ranks that keep in step
meet at a `rank.Barrier`. Blocked and device time pass by themselves.

N equal ranks in lockstep on N times the machine do what one does on the machine, so of many ranks a few are
simulated, on their part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedwater_service.model.numbers import grids
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.engine import EventLoop
from feedwater_service.model.simulator.rank import Barrier, Rank, add_background
from feedwater_service.model.simulator.workload import Workload
from feedwater_service.model.starvation import consumer_starvation, wait_share
from feedwater_service.model.types import LoaderSettings

__all__ = ["SimulatedBatches", "SimulatedEpoch", "Workload", "simulate", "simulate_batches", "window_of"]

MAX_BATCHES_PER_SECOND = 1e6
"""A loop in Python takes a microsecond for each batch at least, also where every measured time is 0."""


@dataclass(frozen=True, slots=True)
class SimulatedEpoch:
    """One whole epoch of the rank that is predicted, extrapolated from its simulated batches."""

    batches: int
    seconds: float
    """Whole epoch, start-up and tear-down included."""
    start_up_seconds: float
    """From ``iter()`` to the first batch."""
    wait_seconds: float
    """Of the epoch's batches without the first."""
    step_seconds: float
    cpu_seconds: float
    """Of the simulated part, of one rank on average."""
    frozen_seconds: float
    """Of the simulated part: runnable, without quota."""
    simulated_seconds: float
    """Length of that part."""
    device_starvation: float | None = None
    """Share of time that the device was idle, 0 to 1; None without a measured device."""

    def faster(self, factor: float) -> SimulatedEpoch:
        """Return the epoch at a speed multiplied by a factor, with the same shares of wait and step."""
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
        return min(self.batches / self.seconds, MAX_BATCHES_PER_SECOND) if self.seconds > 0 else 0.0

    @property
    def busy_cores(self) -> float:
        """CPUs in use on average."""
        return self.cpu_seconds / self.simulated_seconds if self.simulated_seconds > 0 else 0.0

    @property
    def host_starvation(self) -> float:
        """Share of iteration time that the host waited, without the first batch."""
        return wait_share(self.wait_seconds, self.step_seconds)

    @property
    def starvation(self) -> float:
        """The device's where it is known, else the host's."""
        return consumer_starvation(self.host_starvation, self.device_starvation)


@dataclass(frozen=True, slots=True)
class SimulatedBatches:
    """The simulated batches of the rank that is predicted, with the CPU time that all ranks used."""

    asked: tuple[float, ...]
    """Shape (batches,), seconds: when ``next()`` was called."""
    got: tuple[float, ...]
    """Shape (batches,), seconds: when it returned."""
    loaded: tuple[float, ...]
    """Shape (batches,), seconds: when the load of each ended."""
    end: float
    cpu_seconds: float
    """Of one rank on average."""
    frozen_seconds: float
    runnable_seconds: float = 0.0
    """CPU time that all ranks' threads used or waited for."""
    device_idle: tuple[float, ...] = ()
    """Shape (batches,), seconds: how long the device was idle before each step; empty without one."""
    device_ends: tuple[float, ...] = ()
    """Shape (batches,), seconds: when the device ended each step."""


def simulate(
    work: Workload, settings: LoaderSettings, machine: Machine, batches: int, window: int | None = None
) -> SimulatedEpoch:
    """Return one simulated epoch.

    Args:
        work: The work of a batch, and what shares the machine.
        settings: The loader's, in all ranks.
        machine: One rank's even part of what they run on; they share all parts.
        batches: Batches of the whole epoch.
        window: Batches simulated at most, by default `grids.WINDOW`; the rest of the epoch is extrapolated
            from the last three quarters.
    """
    ranks = 1 + len(work.colocation.peers)
    window = grids.WINDOW if window is None else window
    if ranks > 1:
        # Four rounds of all workers: the batches primed at once must not be taken for the pace.
        window = min(window, max(window_of(ranks), 4 * settings.num_workers))
    simulated = max(1, min(batches, window))
    run = simulate_batches(work, settings, machine, batches, simulated)
    return _extrapolate(
        run, batches, simulated, _teardown(work, settings, machine), max(1, settings.num_workers)
    )


def window_of(ranks: int) -> int:
    """Return how many batches of each rank are simulated."""
    return max(grids.MIN_RANK_WINDOW, grids.RANKS_WINDOW // ranks)


def simulate_batches(
    work: Workload, settings: LoaderSettings, machine: Machine, batches: int, simulated: int
) -> SimulatedBatches:
    """Simulate the first batches of an epoch of ``batches``.

    Raises:
        SimulationLimitError: It takes too many events or too much time.
    """
    ranks = 1 + len(work.colocation.peers)
    machine = machine.times(ranks)
    if not _spans_periods(work, machine, ranks):
        run = _simulate_events(work, settings, machine, batches, simulated)
        if run is not None:
            return run
    run = _simulate_events(work, settings, machine.with_even_quota(), batches, simulated)
    assert run is not None
    return run


def _simulate_events(
    work: Workload, settings: LoaderSettings, machine: Machine, batches: int, simulated: int
) -> SimulatedBatches | None:
    """Simulate all ranks on their machine; None if that takes too many periods of its quota."""
    colocation = work.colocation
    ranks = 1 + len(colocation.peers)
    loop = EventLoop(machine)
    for load in colocation.background:
        add_background(loop, load, ranks, _pause(work, settings))
    barrier = Barrier(loop, ranks) if colocation.synchronised and ranks > 1 else None
    works = [work, *(work.of_peer(peer) for peer in colocation.peers)]
    members = []
    for number, own in enumerate(works):
        meets = barrier if barrier is not None or not work.device else Barrier(loop, 1)
        # Ranks that do not wait for each other go on for as long as the predicted one runs beside them, up to
        # a limit: work that takes no time would never end.
        upto = simulated if barrier is not None or number == 0 else 4 * simulated
        known = min(max(batches, upto), upto + grids.MAX_PRIMED)
        members.append(Rank(loop, number, own, settings, known, upto, meets))
    for member in members:
        member.start()
    if not loop.run(grids.PERIODS_PER_BATCH * max(grids.MIN_RANK_WINDOW, simulated)):
        return None
    first = members[0]
    idle, ends = first.device_times()
    return SimulatedBatches(
        asked=tuple(first.asked),
        got=tuple(first.got),
        loaded=tuple(first.iterator.loaded[:simulated]),
        end=first.end,
        cpu_seconds=loop.cpu.busy_seconds / ranks,
        frozen_seconds=loop.cpu.frozen_seconds,
        runnable_seconds=loop.cpu.runnable_seconds / ranks,
        device_idle=idle,
        device_ends=ends,
    )


def _spans_periods(work: Workload, machine: Machine, ranks: int) -> bool:
    """Whether one batch takes the quota of so many periods that the periods need not be simulated."""
    if machine.quota_cores is None:
        return False
    cpu = _mean(work.loads, 1) + _mean(work.steps, 0)
    return ranks * cpu > grids.SMOOTHED_PERIODS * machine.quota_cores * machine.period_seconds


def _pause(work: Workload, settings: LoaderSettings) -> float:
    """A tenth of the time between two events of the loader: background load needs no finer events."""
    cycle = sum(_mean(pairs, k) for pairs in (work.loads, work.steps) for k in (0, 1))
    return 0.1 * cycle / (settings.num_workers + 1)


def _mean(pairs: tuple[tuple[float, float], ...], k: int) -> float:
    return sum(pair[k] for pair in pairs) / len(pairs)


def _teardown(work: Workload, settings: LoaderSettings, machine: Machine) -> float:
    if settings.num_workers == 0:
        return 0.0
    return work.teardown_seconds + settings.num_workers * work.exit_cpu_seconds / min(1.0, machine.cores)


def _extrapolate(
    run: SimulatedBatches, batches: int, simulated: int, teardown: float, round_batches: int
) -> SimulatedEpoch:
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    rest = batches - simulated
    # The first quarter still consumes batches primed while the workers started; workers go in rounds.
    settled = simulated * 3 // 4
    settled = max(1, settled - settled % round_batches if settled >= round_batches else settled)
    steady = simulated - settled
    wait = sum(waits[1:]) + rest * sum(waits[steady:]) / settled
    step = sum(steps) + rest * sum(steps[steady:]) / settled
    start_up = run.got[0]
    return SimulatedEpoch(
        batches=batches,
        seconds=start_up + wait + step + teardown,
        start_up_seconds=start_up,
        wait_seconds=wait,
        step_seconds=step,
        cpu_seconds=run.cpu_seconds,
        frozen_seconds=run.frozen_seconds,
        simulated_seconds=run.end,
        device_starvation=_device_starvation(run, settled),
    )


def _device_starvation(run: SimulatedBatches, settled: int) -> float | None:
    """Idle share of the device over the last steps; None without one."""
    ends, idle = run.device_ends, run.device_idle
    if len(ends) < 2:
        return None
    settled = min(settled, len(ends) - 1)
    whole = ends[-1] - ends[-1 - settled]
    return min(1.0, sum(idle[-settled:]) / whole) if whole > 0 else 0.0
