"""A sweep over CPU limits: the setting that would be chosen under each, and its predicted speed.

A few limits around the present one are simulated, and under each a few counts around the one at which loading
meets its bound. The limit at which starvation ends, and the smallest one that loses nothing, lie between two
of these limits and are found by halving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from feedwater_service.model.choose.choose import smallest_as_good
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors, grids, thresholds
from feedwater_service.model.predict.curve import Point, step_bound, with_workers, work_at
from feedwater_service.model.simulator.cpu import Machine, machine_of
from feedwater_service.model.simulator.simulate import simulate
from feedwater_service.model.types import Budget, LoaderSettings, Prediction, WhatIf


@dataclass(frozen=True, slots=True)
class LimitPoint:
    """One limit, and the point of the setting that would be chosen under it."""

    cores: float
    best: Point


@dataclass(frozen=True, slots=True)
class LimitSweep:
    """The points under several CPU limits, and the limits that matter."""

    present: float
    """The present CPU limit."""
    limits: tuple[LimitPoint, ...] = ()
    """By rising limit, the present one among them."""
    starvation_ends_cores: float | None = None
    """The limit at which starvation ends; None if no simulated limit ends it, or nothing starves."""
    no_gain_cores: float | None = None
    """Where starvation does not end: the larger limit beyond which nothing is gained, if there is one."""
    no_loss_cores: float | None = None
    """The smaller limit that loses nothing; None if there is none."""

    @property
    def needed_cores(self) -> float | None:
        """The limit at which starvation ends, or else beyond which nothing is gained; None: neither found."""
        return self.starvation_ends_cores if self.starvation_ends_cores is not None else self.no_gain_cores


NO_LIMIT_SWEEP = LimitSweep(0.0)


@dataclass(frozen=True, slots=True)
class SweepInput:
    """What is simulated under each limit."""

    estimate: Estimate
    settings: LoaderSettings
    """The settings chosen under the present limit; their count is varied."""
    budget: Budget
    ranks: int
    ceiling: ThroughputCeiling | None
    most_workers: int
    """The most workers that the pod's other limits carry."""
    obtainable: float = 1.0
    """Share of the CPUs' time that other containers leave."""

    def machine(self, cores: float) -> Machine:
        """Return a rank's part of the pod under a limit."""
        whole = replace(machine_of(replace(self.budget, cpu_quota_cores=cores)), obtainable=self.obtainable)
        return whole if self.ranks == 1 else whole.share(1 / self.ranks)

    def point(self, workers: int, cores: float) -> Point:
        """Return the point of a count under a limit, simulated with longer loads only."""
        settings = with_workers(self.settings, workers)
        work = work_at(self.estimate, settings, self.ceiling).stretched(thresholds.LOAD_TIME_MARGIN)
        window = max(grids.LIMIT_WINDOW, 2 * settings.queue_batches)
        slow = simulate(work, settings, self.machine(cores), self.estimate.batches, min(window, grids.WINDOW))
        return Point(settings, slow, slow, slow)

    def as_expected(self, at: Point, cores: float) -> Point:
        """Return the point with its expected outcome simulated, too."""
        work = work_at(self.estimate, at.settings, self.ceiling)
        outcome = simulate(work, at.settings, self.machine(cores), self.estimate.batches)
        return replace(at, outcome=outcome)


def explore(question: SweepInput, best: Point) -> LimitSweep:
    """Simulate the limits around the present one.

    Args:
        question: What is simulated.
        best: The point that would be chosen under the present limit.
    """
    present = question.budget.cores
    limits = [LimitPoint(present, best)]
    below = [c for c in grids.CPU_LIMITS if c < present * 0.99][-grids.LIMITS_EITHER_SIDE :]
    above = [c for c in grids.CPU_LIMITS if present * 1.01 < c <= question.budget.cpus][
        : grids.LIMITS_EITHER_SIDE
    ]
    limits += [_at(question, cores, best) for cores in below]
    for cores in above:
        newest = max(limits, key=lambda x: x.cores)
        idle = newest.best.outcome.busy_cores * question.ranks < thresholds.BUSY_CPU_SHARE * newest.cores
        # Where half of a limit is not used, a larger one changes nothing.
        limits.append(LimitPoint(cores, newest.best) if idle else _at(question, cores, best))
    limits.sort(key=lambda x: x.cores)
    fed = _starvation_ends(question, limits)
    fastest = _fastest(question, limits, present) if fed is None else None
    return LimitSweep(present, tuple(limits), fed, fastest, _no_loss(question, limits, present))


def _at(question: SweepInput, cores: float, usual: Point) -> LimitPoint:
    counts = _counts(question, cores, usual.settings.num_workers)
    if usual.outcome.busy_cores * question.ranks < thresholds.BUSY_CPU_SHARE * min(
        cores, question.budget.cores
    ):
        # The CPU limit does not affect the choice.
        counts = [usual.settings.num_workers]
    tried = [question.point(n, cores) for n in counts]
    return LimitPoint(cores, question.as_expected(smallest_as_good(tried), cores))


def _counts(question: SweepInput, cores: float, usual: int) -> list[int]:
    """The count at which loading meets its bound under a limit, its neighbours, and the usual count."""
    estimate = question.estimate
    floor = max(step_bound(estimate), estimate.cpu_seconds / question.machine(cores).cores, 1e-6)
    meets = math.ceil(estimate.load_seconds * thresholds.LOAD_TIME_MARGIN / floor)
    wanted = {(meets + 1) // 2, meets + 1, usual}
    if meets <= 2:
        wanted.add(0)
    return sorted({max(0, min(n, question.most_workers)) for n in wanted})


def _starvation_ends(question: SweepInput, limits: Sequence[LimitPoint]) -> float | None:
    """The smallest limit at which starvation ends."""
    kept_up = thresholds.KEEPS_UP_SHARE * max(_rate(x.best) for x in limits)
    if all(_not_starved(x.best, kept_up) for x in limits):
        return None
    return _edge(question, limits, lambda p: _not_starved(p, kept_up))


def _not_starved(at: Point, kept_up: float) -> bool:
    return at.outcome.starvation < thresholds.MIN_STARVATION and _rate(at) >= kept_up


def _fastest(question: SweepInput, limits: Sequence[LimitPoint], present: float) -> float | None:
    """The smallest limit that is as fast as the largest, where that is more than the present one."""
    best = max(_rate(x.best) for x in limits)
    found = _edge(question, limits, lambda p: _rate(p) >= (1 - thresholds.MAX_LOSS_AT_LIMIT) * best)
    if found is None or found <= 1.01 * present:
        return None
    # At the largest simulated limit more may be gained beyond it.
    largest = limits[-1].cores
    return found if found < 0.99 * largest or largest >= question.budget.cpus else None


def _no_loss(question: SweepInput, limits: Sequence[LimitPoint], present: float) -> float | None:
    """The smallest limit that loses nothing against the present one."""
    now = next(_rate(x.best) for x in limits if x.cores == present)
    below = [x for x in limits if x.cores <= present]
    found = _edge(question, below, lambda p: _rate(p) >= (1 - thresholds.MAX_LOSS_AT_LIMIT) * now)
    return found if found is not None and found < 0.99 * present else None


def _edge(question: SweepInput, limits: Sequence[LimitPoint], holds: Callable[[Point], bool]) -> float | None:
    """The smallest limit from which on a condition holds; None if it fails at the largest."""
    good: LimitPoint | None = None
    bad = 0.0
    for at in reversed(limits):
        if not holds(at.best):
            bad = at.cores
            break
        good = at
    if good is None or bad == 0.0:
        return good.cores if good is not None else None
    cores = good.cores
    for _ in range(grids.LIMIT_HALVINGS):
        between = (bad + cores) / 2
        if holds(question.as_expected(good.best, between)):
            cores = between
        else:
            bad = between
    return cores


def _rate(at: Point) -> float:
    return at.outcome.batches_per_second


def predicted(
    limit_sweep: LimitSweep, chosen: Prediction, predict: Callable[[Point], Prediction]
) -> tuple[WhatIf, ...]:
    """Return the sweep's points with bounds.

    Args:
        limit_sweep: The limits that were simulated.
        chosen: What is recommended under the present limit, hysteresis and history included.
        predict: Puts bounds to a point of the present machine.
    """
    return tuple(
        WhatIf(x.cores, chosen if x.cores == limit_sweep.present else _widened(predict(x.best)))
        for x in limit_sweep.limits
    )


def _widened(prediction: Prediction) -> Prediction:
    rate = prediction.batches_per_second
    if rate <= 0 or prediction.batches_per_second_lower <= 0:
        return prediction
    down, up = (
        math.hypot(f - 1, floors.SD_OTHER_LIMIT)
        for f in (rate / prediction.batches_per_second_lower, prediction.batches_per_second_upper / rate)
    )
    return replace(
        prediction,
        batches_per_second_lower=rate / (1 + down),
        batches_per_second_upper=rate * (1 + up),
    )
