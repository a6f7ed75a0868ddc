"""A ceiling of storage: found only by comparing two worker counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.types import Epoch

RISE = 1.25
"""Blocked time must rise by this much between two counts to speak of a ceiling; less is an epoch's noise."""

SHARE = 0.2
"""Of a load's own time, blocked or computing, that it must be blocked at the higher count: a load that
computes is not held up by storage, however its fraction of a millisecond of blocking varies."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Storage that serves only so many loads per second."""

    base_seconds: float
    """Blocked time of one load while storage is not full."""
    loads_per_second: float

    def blocked_seconds(self, workers: int, cpu_seconds: float) -> float:
        """Return the blocked time of one load under so many workers.

        Example: 35 loads/s, 10 ms blocked alone, no CPU: 7 workers get one each 7 / 35 = 0.2 s.
        """
        return max(self.base_seconds, workers / self.loads_per_second - cpu_seconds)


@dataclass(frozen=True, slots=True)
class _Seen:
    workers: int
    blocked: float
    cpu: float
    rate: float
    starvation: float


def find_ceiling(epochs: Sequence[Epoch]) -> Ceiling | None:
    """Return the ceiling that epochs at two counts show, the newest of each; None if none was met."""
    newest: dict[int, _Seen] = {}
    for epoch in epochs:
        if len(epoch.loads) >= 10 and epoch.settings.num_workers > 0:
            figures = summarise(epoch)
            steady = figures.wait_seconds + figures.step_seconds
            newest[epoch.settings.num_workers] = _Seen(
                epoch.settings.num_workers,
                fmean(x.blocked_seconds for x in epoch.loads),
                fmean(x.cpu_seconds for x in epoch.loads),
                figures.batches / steady if steady > 0 else 0.0,
                figures.starvation,
            )
    if len(newest) < 2:
        return None
    few, many = newest[min(newest)], newest[max(newest)]
    # Without starvation at the higher count nothing was short, so a longer blocked time is not a ceiling's.
    if many.blocked < RISE * few.blocked or many.starvation < 0.1 or many.rate <= 0 or few.blocked <= 0:
        return None
    if many.blocked < SHARE * (many.blocked + many.cpu):
        return None
    return Ceiling(few.blocked, max(many.rate, few.rate))
