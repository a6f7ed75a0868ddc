"""A ceiling of storage seen within one epoch: loads are quicker while few of them run.

A starved loader keeps every worker busy, so one count hides a ceiling nearly always, but not at an epoch's
two ends: workers are started one after another, and run out of batches one after another. If the loads of
those moments were blocked for clearly less time than all others, it is the others that they waited for.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean, median

from feedwater_service.model.fit.storage import RISE, SHARE, Ceiling
from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.types import Epoch, Load

FEW = 0.75
"""Of the workers, on average during a load, up to which it counts as one of few."""
MANY = 0.9
"""Of the workers from which a load counts as one of many."""
LEAST_FEW = 4
"""Loads among few that are needed: fewer cannot differ beyond chance."""
LEAST_MANY = 20
BEYOND_CHANCE = 3.1
"""Standard deviations that the ranks of few and many must lie apart: like loads do so once in a thousand
epochs, and then their medians would have to differ as well."""
STARVED = 0.1
"""Starvation from which storage may be what is short."""


def ceiling_within(epoch: Epoch) -> Ceiling | None:
    """Return the ceiling that an epoch's own ends show; None if they show none."""
    workers = epoch.settings.num_workers
    figures = summarise(epoch)
    if workers < 2 or figures.starvation < STARVED or len(epoch.loads) < LEAST_MANY:
        return None
    at_once = mean_concurrency(epoch.loads)
    few = [x for x, n in zip(epoch.loads, at_once, strict=True) if n <= FEW * workers]
    many = [x for x, n in zip(epoch.loads, at_once, strict=True) if n >= MANY * workers]
    if len(few) < LEAST_FEW or len(many) < LEAST_MANY or not _clearly_quicker(few, many):
        return None
    steady = figures.wait_seconds + figures.step_seconds
    alone = _median_blocked(few) / _median_blocked(many)
    base = alone * fmean(x.blocked_seconds for x in many)
    return Ceiling(base, figures.batches / steady) if base > 0 and steady > 0 else None


def _clearly_quicker(few: Sequence[Load], many: Sequence[Load]) -> bool:
    usual = _median_blocked(many)
    is_blocked = usual > 0 and usual >= SHARE * (usual + median(x.cpu_seconds for x in many))
    rises = usual >= RISE * _median_blocked(few)
    return is_blocked and rises and _rank_distance(few, many) > BEYOND_CHANCE


def _median_blocked(loads: Sequence[Load]) -> float:
    return median(x.blocked_seconds for x in loads)


def _rank_distance(few: Sequence[Load], many: Sequence[Load]) -> float:
    """How far the blocked times of few rank below those of many, in standard deviations of chance.

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
    """Return for each load how many ran at once on average while it did, itself included."""
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
