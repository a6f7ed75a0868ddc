"""The most that storage serves: found by comparing epochs at two worker counts, or within one epoch.

A starved loader keeps every worker busy, so one count hides a ceiling nearly always, but not at an epoch's
two ends: workers are started one after another, and run out of batches one after another. If the loads of
those moments were blocked for clearly less time than all others, it is the others that waited for storage.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.types import Epoch, Load


@dataclass(frozen=True, slots=True)
class ThroughputCeiling:
    """The most loads per second that storage serves."""

    base_seconds: float
    """Blocked time of one load below the ceiling."""
    loads_per_second: float

    def blocked_seconds(self, workers: int, cpu_seconds: float) -> float:
        """Return the blocked time of one load beside a number of workers.

        Example: 35 loads/s, 10 ms blocked alone, no CPU: 7 workers get one each 7 / 35 = 0.2 s.
        """
        return max(self.base_seconds, workers / self.loads_per_second - cpu_seconds)


@dataclass(frozen=True, slots=True)
class _EpochOfCount:
    workers: int
    blocked: float
    cpu: float
    rate: float
    starvation: float


def find_ceiling(epochs: Sequence[Epoch]) -> ThroughputCeiling | None:
    """Return the ceiling that epochs at two counts show, the newest of each; None if none was met."""
    newest: dict[int, _EpochOfCount] = {}
    for epoch in epochs:
        if len(epoch.loads) >= floors.MIN_SAMPLES and epoch.settings.num_workers > 0:
            figures = summarise(epoch)
            steady = figures.wait_seconds + figures.step_seconds
            newest[epoch.settings.num_workers] = _EpochOfCount(
                epoch.settings.num_workers,
                fmean(x.blocked_seconds for x in epoch.loads),
                fmean(x.cpu_seconds for x in epoch.loads),
                figures.batches / steady if steady > 0 else 0.0,
                figures.starvation,
            )
    if len(newest) < 2:
        return None
    few, many = newest[min(newest)], newest[max(newest)]
    # Without starvation at the higher count storage was fast enough: longer blocked times are no ceiling.
    if (
        many.blocked < floors.CEILING_MIN_SLOWDOWN * few.blocked
        or many.starvation < floors.CEILING_MIN_STARVATION
        or many.rate <= 0
        or few.blocked <= 0
    ):
        return None
    if many.blocked < floors.CEILING_MIN_BLOCKED_SHARE * (many.blocked + many.cpu):
        return None
    return ThroughputCeiling(few.blocked, max(many.rate, few.rate))


def ceiling_within(epoch: Epoch) -> ThroughputCeiling | None:
    """Return the ceiling that the loads at an epoch's two ends show; None if they show none."""
    workers = epoch.settings.num_workers
    figures = summarise(epoch)
    if (
        workers < 2
        or figures.starvation < floors.CEILING_MIN_STARVATION
        or len(epoch.loads) < floors.MIN_LOADS_AMONG_MANY
    ):
        return None
    at_once = mean_concurrency(epoch.loads)
    few = [x for x, n in zip(epoch.loads, at_once, strict=True) if n <= floors.FEW_CONCURRENT_SHARE * workers]
    many = [
        x for x, n in zip(epoch.loads, at_once, strict=True) if n >= floors.MANY_CONCURRENT_SHARE * workers
    ]
    if (
        len(few) < floors.MIN_LOADS_AMONG_FEW
        or len(many) < floors.MIN_LOADS_AMONG_MANY
        or not _is_clearly_quicker(few, many)
    ):
        return None
    steady = figures.wait_seconds + figures.step_seconds
    alone = _median_blocked(few) / _median_blocked(many)
    base = alone * fmean(x.blocked_seconds for x in many)
    return ThroughputCeiling(base, figures.batches / steady) if base > 0 and steady > 0 else None


def _is_clearly_quicker(few: Sequence[Load], many: Sequence[Load]) -> bool:
    usual = _median_blocked(many)
    is_blocked = usual > 0 and usual >= floors.CEILING_MIN_BLOCKED_SHARE * (
        usual + median(x.cpu_seconds for x in many)
    )
    rises = usual >= floors.CEILING_MIN_SLOWDOWN * _median_blocked(few)
    return is_blocked and rises and _rank_distance(few, many) > floors.RANK_TEST_SD


def _median_blocked(loads: Sequence[Load]) -> float:
    return median(x.blocked_seconds for x in loads)


def _rank_distance(few: Sequence[Load], many: Sequence[Load]) -> float:
    """How far the blocked times of few rank below those of many, in standard deviations under no difference.

    Source: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than
    the other", 1947.
    """
    times = sorted(x.blocked_seconds for x in many)
    n, m = len(few), len(many)
    quicker = 0.0
    for load in few:
        at = load.blocked_seconds
        quicker += m - (bisect_left(times, at) + bisect_right(times, at)) / 2
    return (quicker - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def mean_concurrency(loads: Sequence[Load]) -> list[float]:
    """Return for each load the mean number of loads that ran during it, itself included."""
    events = sorted([(x.start, 1) for x in loads] + [(x.start + x.seconds, -1) for x in loads])
    stamps: list[float] = []
    running: list[int] = []
    areas: list[float] = []
    area, now = 0.0, 0
    for stamp, change in events:
        if stamps:
            area += now * (stamp - stamps[-1])
        now += change
        stamps.append(stamp)
        running.append(now)
        areas.append(area)

    def until(stamp: float) -> float:
        i = bisect_right(stamps, stamp) - 1
        return areas[i] + running[i] * (stamp - stamps[i])

    return [
        (until(x.start + x.seconds) - until(x.start)) / x.seconds if x.seconds > 0 else 1.0 for x in loads
    ]
