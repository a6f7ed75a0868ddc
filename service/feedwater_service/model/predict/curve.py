"""The simulated curve: the speed at each setting, as measured and with longer loads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import grids, thresholds
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import SimulatedEpoch, Workload, simulate
from feedwater_service.model.types import LoaderSettings


@dataclass(frozen=True, slots=True)
class Point:
    """One setting on the curve."""

    settings: LoaderSettings
    outcome: SimulatedEpoch
    slow: SimulatedEpoch
    """With load times `thresholds.LOAD_TIME_MARGIN`."""
    slowest: SimulatedEpoch
    """With load times `thresholds.SHRINK_LOAD_TIME_MARGIN`, up to the count in use; beyond it, where it is
    not needed, as `slow`."""

    spread: float = 0.0
    """Standard deviation of the logarithm of the speeds' remaining error."""

    def corrected(self, factor: float, spread: float) -> Point:
        """Return the point with all speeds multiplied by a factor, and the error that remains."""
        plain, slow, slowest = (x.faster(factor) for x in (self.outcome, self.slow, self.slowest))
        return Point(self.settings, plain, slow, slowest, spread)

    @property
    def load_weight(self) -> float:
        """Elasticity of the speed to load times: 0 where the step is the bound, 1 where loads are."""
        plain, slow = self.outcome.batches_per_second, self.slow.batches_per_second
        if plain <= 0 or slow <= 0:
            return 1.0
        return min(1.0, max(0.0, math.log(plain / slow) / math.log(thresholds.LOAD_TIME_MARGIN)))


def counts_up_to(limit: int, also: Iterable[int], estimate: Estimate, machine: Machine) -> list[int]:
    """Return the worker counts worth simulating, at most about a dozen.

    Beyond twice the count at which the closed bounds meet, more workers only add cost.
    """
    floor = max(step_bound(estimate), estimate.cpu_seconds / machine.cores, 1e-6)
    enough = 2 * math.ceil(estimate.load_seconds * thresholds.LOAD_TIME_MARGIN / floor) + 2
    top = min(limit, enough)
    chosen = {n for n in grids.WORKER_COUNTS if n <= top} | {n for n in also if n >= 0}
    if top > 0 and top == limit:
        chosen.add(top)
    return sorted(chosen)


def step_bound(estimate: Estimate) -> float:
    """Return the least seconds that the main process needs for one batch, with loads of no time."""
    return estimate.work.consumer_seconds + (
        0.0 if estimate.work.pin_cpu_seconds > 0 else estimate.work.receive_seconds
    )


def point(
    estimate: Estimate, settings: LoaderSettings, machine: Machine, ceiling: ThroughputCeiling | None
) -> Point:
    """Return the simulated outcome of one setting."""
    work = work_at(estimate, settings, ceiling)
    plain, slow = (
        simulate(w, settings, machine, estimate.batches)
        for w in (work, work.with_longer_loads(thresholds.LOAD_TIME_MARGIN))
    )
    return Point(settings, plain, slow, slow)


def stress_tested(
    at: Point, estimate: Estimate, machine: Machine, ceiling: ThroughputCeiling | None
) -> Point:
    """Return the point with its outcome under much longer loads, by which fewer workers are judged."""
    work = work_at(estimate, at.settings, ceiling).with_longer_loads(thresholds.SHRINK_LOAD_TIME_MARGIN)
    return replace(at, slowest=simulate(work, at.settings, machine, estimate.batches))


def work_at(estimate: Estimate, settings: LoaderSettings, ceiling: ThroughputCeiling | None) -> Workload:
    """Return the work at other settings: below a ceiling of storage, more concurrent loads take longer."""
    work = estimate.work
    if ceiling is None or estimate.blocked_seconds <= 0:
        return work
    factor = (
        ceiling.blocked_seconds(settings.num_workers, estimate.load_cpu_seconds) / estimate.blocked_seconds
    )
    return replace(work, loads=tuple((b * factor, c) for b, c in work.loads))


def curve(
    estimate: Estimate,
    counts: Iterable[int],
    base: LoaderSettings,
    machine: Machine,
    ceiling: ThroughputCeiling | None,
) -> tuple[Point, ...]:
    """Return the points of several worker counts, with the other settings of ``base``."""
    points = (point(estimate, with_workers(base, n), machine, ceiling) for n in counts)
    return tuple(
        stress_tested(p, estimate, machine, ceiling) if p.settings.num_workers <= base.num_workers else p
        for p in points
    )


def with_workers(base: LoaderSettings, workers: int, prefetch: int | None = None) -> LoaderSettings:
    """Return settings with another count, as ``DataLoader`` accepts them: no prefetch without workers."""
    if workers == 0:
        return replace(base, num_workers=0, prefetch_factor=None, persistent_workers=False)
    wanted = prefetch or base.prefetch_factor or 2
    return replace(base, num_workers=workers, prefetch_factor=wanted)
