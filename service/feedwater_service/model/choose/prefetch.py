"""The depth of the queue: deeper against slow batches, shallower where memory keeps workers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from feedwater_service.model.choose.choose import Choice, changes_lately, failed_before, gain, rate
from feedwater_service.model.choose.limits import caps, tightest
from feedwater_service.model.numbers import grids, thresholds
from feedwater_service.model.observed.group import Group
from feedwater_service.model.predict.bounds import Grounds
from feedwater_service.model.predict.curve import Point, point, with_workers
from feedwater_service.model.types import Policy, Settings


@dataclass(frozen=True, slots=True)
class Depths:
    """What a choice of ``prefetch_factor`` is made from."""

    group: Group
    grounds: Grounds
    choice: Choice
    policy: Policy
    points: tuple[Point, ...]
    """The curve that it was chosen from."""
    tried: dict[Settings, Point] = field(default_factory=dict)
    """Points as simulated before; what is simulated now is added."""

    @property
    def now(self) -> int:
        """The value in the chosen settings."""
        return self.choice.chosen.settings.prefetch_factor or 2

    @property
    def workers(self) -> int:
        """The chosen count."""
        return self.choice.chosen.settings.num_workers

    def cap(self, prefetch: int) -> int:
        """Return the most workers that fit with queues of this depth."""
        now = self.group.epoch.settings.num_workers
        return tightest(caps(self.group, self.grounds.estimate, self.policy, prefetch), now).allows(now)

    def at(self, workers: int, prefetch: int) -> Point:
        """Return the simulated point."""
        settings = with_workers(self.choice.chosen.settings, workers, prefetch)
        grounds = self.grounds
        if settings not in self.tried:
            self.tried[settings] = point(grounds.estimate, settings, grounds.machine, grounds.ceiling)
        return grounds.corrected(self.tried[settings])


def other_depth(depths: Depths) -> Point | None:
    """Return the setting of another ``prefetch_factor`` that gains over the chosen one; None if none does."""
    if depths.workers == 0 or not depths.group.slowest.map_style:
        return None
    if changes_lately(depths.group.lately) >= thresholds.MAX_RECENT_CHANGES:
        return None
    return _deeper(depths) or _shallower(depths)


def _deeper(depths: Depths) -> Point | None:
    """A longer queue, where workers outrun a consumer that still waits; fewer workers if they do as well."""
    if depths.choice.chosen.outcome.starvation < thresholds.AS_GOOD_SHARE:
        return None
    longer = [
        depths.at(depths.workers, p)
        for p in grids.DEEPER_PREFETCH
        if p > depths.now and _fits(depths, depths.workers, p)
    ]
    best = _best(depths, longer)
    if best is None:
        return None
    prefetch = best.settings.prefetch_factor or 2
    fewer = [depths.at(n, prefetch) for n in _below(depths.workers) if _fits(depths, n, prefetch)]
    return _best(depths, [best, *fewer])


def _below(workers: int) -> list[int]:
    """Counts down to half of a count: a queue twice as long may make up for them."""
    return [n for n in grids.WORKER_COUNTS if workers <= 2 * n < 2 * workers][: grids.COUNTS_BELOW_DEEPER]


def _fits(depths: Depths, workers: int, prefetch: int) -> bool:
    return depths.cap(prefetch) >= workers and _is_open(depths, workers, prefetch)


def _shallower(depths: Depths) -> Point | None:
    """More workers with shorter queues, where memory or ``/dev/shm`` keeps the wanted count out."""
    choice = depths.choice
    if choice.binding is None or choice.binding.kind not in ("memory", "shm"):
        return None
    if gain(choice.best_uncapped, choice.chosen) < depths.policy.min_gain:
        return None
    for prefetch in grids.SHALLOWER_PREFETCH:
        if prefetch < depths.now:
            found = _best(depths, [depths.at(n, prefetch) for n in _counts(depths, prefetch)])
            if found is not None:
                return found
    return None


def _counts(depths: Depths, prefetch: int) -> list[int]:
    """Counts above the chosen one that fit with such queues, no more than what is wanted."""
    top = min(depths.cap(prefetch), depths.choice.best_uncapped.settings.num_workers)
    between = sorted({n for n in grids.WORKER_COUNTS if depths.workers < n < top} | {top})
    return [n for n in between if n > depths.workers and _is_open(depths, n, prefetch)][
        -grids.COUNTS_SHALLOWER :
    ]


def _best(depths: Depths, points: Iterable[Point]) -> Point | None:
    """The cheapest point as good as the best, if it gains enough over the chosen one."""
    worth = [p for p in points if gain(p, depths.choice.chosen) >= depths.policy.min_gain]
    if not worth:
        return None
    as_good = [p for p in worth if rate(p) >= (1 - thresholds.AS_GOOD_SHARE) * max(rate(x) for x in worth)]
    # A worker takes more memory than a batch.
    return min(as_good or worth, key=lambda p: (p.settings.num_workers, p.settings.queue_batches))


def _is_open(depths: Depths, workers: int, prefetch: int) -> bool:
    """Whether a setting has not failed, nor been left, before."""
    wanted = with_workers(depths.choice.chosen.settings, workers, prefetch)
    left = {_key(c.before) for c in depths.group.lately.changes}
    failed = {_key(s) for s in depths.group.lately.failed}
    return _key(wanted) not in left | failed and not failed_before(wanted, depths.group.lately)


def _key(settings: Settings) -> tuple[int, int]:
    return settings.num_workers, settings.prefetch_factor or 2
