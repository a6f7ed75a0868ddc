"""Counterfactuals: the gain of a loader without one cause, each cause removed in a simulation of its own.

A verdict names a cause only if removing it gains something, and advice says how much. A cause that cannot
apply, such as a ceiling of storage that was never met, is not simulated and stays None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import costs, grids, thresholds
from feedwater_service.model.predict.curve import step_bound, with_workers, work_at
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import SimulatedEpoch, Workload, simulate
from feedwater_service.model.types import LoaderSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactuals:
    """Relative gains in batches/s over one setting, each without one cause; None where that cannot apply."""

    settings: LoaderSettings
    outcome: SimulatedEpoch
    """Simulated at these settings, with all causes."""
    free_loads: float
    """Loads take no time: the most that any cause can explain."""
    even_loads: float | None = None
    """Every load takes the mean time."""
    any_order: float | None = None
    """``in_order=False``."""
    no_start_up: float | None = None
    """``persistent_workers=True``."""
    light_batches: float | None = None
    """Receiving a batch takes as long as one small tensor."""
    one_thread: float | None = None
    """Each load keeps one CPU busy, for no longer than before."""
    no_ceiling: float | None = None
    """Storage is as fast for many loads as for few, with enough workers."""
    more_cores: float | None = None
    """The CPU limit is `cores`, with enough workers."""
    cores: float = 0.0
    """The CPU limit of `more_cores`."""
    own_cpus: float | None = None
    """Other containers do not use the CPUs, with enough workers."""

    def rate_without(self, found: float | None) -> float:
        """Return the batches per second after a gain; 0 where its cause cannot apply."""
        return 0.0 if found is None else self.outcome.batches_per_second * (1 + found)

    @property
    def largest_gain(self) -> float:
        """The largest gain, start-up not counted."""
        return max((g for g in self._gains() if g is not None), default=0.0)

    def _gains(self) -> Iterable[float | None]:
        return (
            self.even_loads,
            self.light_batches,
            self.one_thread,
            self.no_ceiling,
            self.more_cores,
            self.own_cpus,
        )


def counterfactuals(
    estimate: Estimate,
    settings: LoaderSettings,
    machine: Machine,
    ceiling: ThroughputCeiling | None,
    max_workers: int,
) -> Counterfactuals:
    """Return the gain without each cause at some settings, by two to eight simulations.

    Args:
        estimate: Of the epoch that was measured.
        settings: At which the causes are removed one by one.
        machine: That it ran on.
        ceiling: Of storage.
        max_workers: The most that are simulated where a gain takes more workers.
    """
    work = work_at(estimate, settings, ceiling)
    asked = _Scenario(estimate, settings, machine, ceiling, max_workers, work)
    base = asked.outcome(work)
    cores = _cores_wanted(estimate, machine)
    return Counterfactuals(
        settings=settings,
        outcome=base,
        free_loads=_gain_over(base, asked.outcome(_without_loading(work), LoaderSettings(0))) or 0.0,
        even_loads=_gain_over(base, asked.even()),
        any_order=_gain_over(base, asked.any_order()),
        no_start_up=_gain_over(base, asked.no_start_up()),
        light_batches=_gain_over(base, asked.light_batches()),
        one_thread=_gain_over(base, asked.one_thread()),
        no_ceiling=_gain_over(base, asked.no_ceiling()),
        more_cores=_gain_over(base, asked.more_cores(cores, base)),
        cores=cores,
        own_cpus=_gain_over(base, asked.own_cpus()),
    )


@dataclass(frozen=True, slots=True)
class _Scenario:
    """One setting, and the simulations that differ from it in one cause."""

    estimate: Estimate
    settings: LoaderSettings
    machine: Machine
    ceiling: ThroughputCeiling | None
    max_workers: int
    work: Workload

    def outcome(
        self, work: Workload, settings: LoaderSettings | None = None, machine: Machine | None = None
    ) -> SimulatedEpoch:
        batches = self.estimate.batches
        return simulate(
            work, settings or self.settings, machine or self.machine, batches, grids.COUNTERFACTUAL_WINDOW
        )

    def even(self) -> SimulatedEpoch | None:
        if not self._uneven:
            return None
        mean = fmean(b for b, _ in self.work.loads), fmean(c for _, c in self.work.loads)
        return self.outcome(replace(self.work, loads=(mean,)))

    def any_order(self) -> SimulatedEpoch | None:
        if not self._uneven or not self.settings.in_order:
            return None
        return self.outcome(self.work, replace(self.settings, in_order=False))

    @property
    def _uneven(self) -> bool:
        if self.settings.num_workers < 2 or not self.estimate.known.loads:
            return False
        times = [b + c for b, c in self.work.loads]
        mean = fmean(times)
        return mean > 0 and pstdev(times) > thresholds.UNEVEN_LOADS_SPREAD * mean

    def no_start_up(self) -> SimulatedEpoch | None:
        if self.settings.num_workers == 0 or self.settings.persistent_workers:
            return None
        lasting = replace(
            self.work,
            first_blocked_seconds=0.0,
            first_cpu_seconds=0.0,
            fork_cpu_seconds=0.0,
            boot_cpu_seconds=0.0,
            exit_cpu_seconds=0.0,
            teardown_seconds=0.0,
        )
        return self.outcome(lasting)

    def light_batches(self) -> SimulatedEpoch | None:
        receive = self.work.receive_seconds
        if self.settings.num_workers == 0 or receive <= costs.RECEIVE_SECONDS:
            return None
        return self.outcome(self.work.with_receive_seconds(costs.RECEIVE_SECONDS))

    def one_thread(self) -> SimulatedEpoch | None:
        return self.outcome(replace(self.work, load_width=1.0)) if self.work.load_width > 1 else None

    def no_ceiling(self) -> SimulatedEpoch | None:
        if self.ceiling is None:
            return None
        estimate = self.estimate
        factor = self.ceiling.base_seconds / estimate.blocked_seconds if estimate.blocked_seconds > 0 else 1.0
        free = replace(estimate.work, loads=tuple((b * min(1.0, factor), c) for b, c in estimate.work.loads))
        return self._fastest(free, self.machine)

    def more_cores(self, cores: float, base: SimulatedEpoch) -> SimulatedEpoch | None:
        if base.frozen_seconds <= 0 and base.busy_cores < thresholds.BUSY_CPU_SHARE * self.machine.cores:
            return None
        larger = replace(self.machine, cpus=max(math.ceil(cores), self.machine.cpus), quota_cores=cores)
        if self.machine.quota_cores is None:
            larger = Machine(cores, obtainable=self.machine.obtainable)
        return self._fastest(self.work, larger)

    def own_cpus(self) -> SimulatedEpoch | None:
        if self.machine.obtainable >= 1.0:
            return None
        return self._fastest(self.work, replace(self.machine, obtainable=1.0))

    def _fastest(self, work: Workload, machine: Machine) -> SimulatedEpoch:
        """The faster one of the workers in use and of enough workers for the step."""
        step = max(step_bound(self.estimate), 1e-6)
        wanted = math.ceil(self.estimate.load_seconds * thresholds.LOAD_TIME_MARGIN / step) + 1
        enough = max(self.settings.num_workers, min(self.max_workers, wanted))
        counts = {self.settings.num_workers, enough}
        found = [self.outcome(work, with_workers(self.settings, n), machine) for n in counts]
        return max(found, key=lambda o: o.batches_per_second)


def _without_loading(work: Workload) -> Workload:
    return replace(work, loads=((0.0, 0.0),), inline_cpu_seconds=0.0)


def _cores_wanted(estimate: Estimate, machine: Machine) -> float:
    """The CPU limit at which the CPU time of a batch takes no longer than the step that consumes it."""
    step = step_bound(estimate)
    wanted = thresholds.LOAD_TIME_MARGIN * estimate.cpu_seconds / step if step > 0 else thresholds.MAX_CORES
    # At least half as much again as now, even where the mean fits already.
    return min(thresholds.MAX_CORES, max(wanted, 1.5 * machine.cores))


def _gain_over(base: SimulatedEpoch, other: SimulatedEpoch | None) -> float | None:
    if other is None:
        return None
    old = base.batches_per_second
    return max(0.0, other.batches_per_second / old - 1) if old > 0 else 0.0
