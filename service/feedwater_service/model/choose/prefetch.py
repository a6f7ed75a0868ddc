"""The choice of ``prefetch_factor``: larger against slow batches, smaller where memory is short."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from feedwater_service.model.choose.choose import (
    Choice,
    failed_before,
    gain,
    rate_with_margin,
    recent_changes,
)
from feedwater_service.model.choose.limits import caps, tightest
from feedwater_service.model.numbers import grids, thresholds
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.predict.bounds import PredictionContext
from feedwater_service.model.predict.curve import Point, point, with_workers
from feedwater_service.model.types import LoaderSettings, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A chosen count of workers, and what it was chosen from."""

    group: RankGroup
    policy: Policy
    context: PredictionContext
    current: Point
    """The corrected point of the settings in use."""
    points: tuple[Point, ...]
    """The corrected curve, `current` among its points."""
    choice: Choice
    tried: dict[LoaderSettings, Point] = field(default_factory=dict)
    """Points of other prefetch factors, as simulated; `at` adds to them."""

    @property
    def prefetch(self) -> int:
        """The chosen settings' ``prefetch_factor``."""
        return self.choice.chosen.settings.prefetch_factor or 2

    @property
    def workers(self) -> int:
        """The chosen count."""
        return self.choice.chosen.settings.num_workers

    def cap(self, prefetch: int) -> int:
        """Return the most workers that the limits allow with a prefetch factor."""
        now = self.group.epoch.settings.num_workers
        return tightest(caps(self.group, self.context.estimate, self.policy, prefetch), now).allows(now)

    def at(self, workers: int, prefetch: int) -> Point:
        """Return the corrected point, simulated if it was not before."""
        settings = with_workers(self.choice.chosen.settings, workers, prefetch)
        context = self.context
        if settings not in self.tried:
            self.tried[settings] = point(context.estimate, settings, context.machine, context.ceiling)
        return context.corrected(self.tried[settings])


def other_depth(selection: Selection) -> Point | None:
    """Return the setting of another ``prefetch_factor`` that gains over the chosen one; None if none does."""
    if selection.workers == 0 or not selection.group.slowest.map_style:
        return None
    if recent_changes(selection.group.recent) >= thresholds.MAX_RECENT_CHANGES:
        return None
    return _deeper(selection) or _shallower(selection)


def _deeper(selection: Selection) -> Point | None:
    """A larger factor where the consumer still waits, with fewer workers if they are as good."""
    if selection.choice.chosen.outcome.starvation < thresholds.AS_GOOD_SHARE:
        return None
    longer = [
        selection.at(selection.workers, p)
        for p in grids.DEEPER_PREFETCH
        if p > selection.prefetch and _fits(selection, selection.workers, p)
    ]
    best = _best(selection, longer)
    if best is None:
        return None
    prefetch = best.settings.prefetch_factor or 2
    fewer = [selection.at(n, prefetch) for n in _below(selection.workers) if _fits(selection, n, prefetch)]
    return _best(selection, [best, *fewer])


def _below(workers: int) -> list[int]:
    """Counts down to half of a count: a queue twice as long may replace the others."""
    return [n for n in grids.WORKER_COUNTS if workers <= 2 * n < 2 * workers][: grids.COUNTS_BELOW_DEEPER]


def _fits(selection: Selection, workers: int, prefetch: int) -> bool:
    return selection.cap(prefetch) >= workers and _is_open(selection, workers, prefetch)


def _shallower(selection: Selection) -> Point | None:
    """More workers with a smaller factor, where memory or ``/dev/shm`` does not carry the wanted count."""
    choice = selection.choice
    if choice.binding is None or choice.binding.kind not in ("memory", "shm"):
        return None
    if gain(choice.best_uncapped, choice.chosen) < selection.policy.min_gain:
        return None
    for prefetch in grids.SHALLOWER_PREFETCH:
        if prefetch < selection.prefetch:
            found = _best(selection, [selection.at(n, prefetch) for n in _counts(selection, prefetch)])
            if found is not None:
                return found
    return None


def _counts(selection: Selection, prefetch: int) -> list[int]:
    """Counts from the chosen one to the wanted one that fit with a prefetch factor."""
    top = min(selection.cap(prefetch), selection.choice.best_uncapped.settings.num_workers)
    between = sorted({n for n in grids.WORKER_COUNTS if selection.workers < n < top} | {top})
    return [n for n in between if n > selection.workers and _is_open(selection, n, prefetch)][
        -grids.COUNTS_SHALLOWER :
    ]


def _best(selection: Selection, points: Iterable[Point]) -> Point | None:
    """The point of least memory that is as good as the best, if it gains enough over the chosen one."""
    worth = [p for p in points if gain(p, selection.choice.chosen) >= selection.policy.min_gain]
    if not worth:
        return None
    as_good = [
        p
        for p in worth
        if rate_with_margin(p) >= (1 - thresholds.AS_GOOD_SHARE) * max(rate_with_margin(x) for x in worth)
    ]
    # A worker takes more memory than a batch.
    return min(as_good or worth, key=lambda p: (p.settings.num_workers, p.settings.queue_batches))


def _is_open(selection: Selection, workers: int, prefetch: int) -> bool:
    """Whether a setting neither failed nor was left before."""
    wanted = with_workers(selection.choice.chosen.settings, workers, prefetch)
    left = {_key(c.before) for c in selection.group.recent.changes}
    failed = {_key(s) for s in selection.group.recent.failed}
    return _key(wanted) not in left | failed and not failed_before(wanted, selection.group.recent)


def _key(settings: LoaderSettings) -> tuple[int, int]:
    return settings.num_workers, settings.prefetch_factor or 2
