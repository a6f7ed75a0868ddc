"""What ran when: the loaders of a pod on one clock, for one loader's wait is in another's step.

All processes of a pod share a kernel, so their monotonic stamps can be compared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from feedwater_service.model.numbers import floors
from feedwater_service.model.types import Epoch, Load, Loader


@dataclass(frozen=True, slots=True)
class ConcurrentLoader:
    """Another loader of the rank, as far as it ran while an epoch of ours did."""

    loader: Loader
    epoch: Epoch
    per_batch: float
    """Its batches for one of ours, where one loop takes both; else 0."""
    waits_in_steps: tuple[float, ...]
    """Shape (batches,), seconds: of our steps, its wait; empty where no loop takes both."""
    cores: float
    """CPU time of its loads by the time of ours that they fell into."""

    @property
    def is_zipped(self) -> bool:
        """One loop takes both loaders' batches in turn."""
        return bool(self.waits_in_steps)


def stamps(epoch: Epoch) -> tuple[list[float], list[float]]:
    """Return when each batch was asked for and when it was got; the end of the last step ends the first list.

    Returns:
        Shapes (batches + 1,) and (batches,), seconds. Right only where no batch is missing, see `is_whole`.
    """
    asked, got = [epoch.start + epoch.iter_seconds], []
    for wait, step in zip(epoch.waits, epoch.steps, strict=False):
        got.append(asked[-1] + wait)
        asked.append(got[-1] + step)
    return asked, got


def is_whole(epoch: Epoch) -> bool:
    """Whether every batch so far is known, so that their times add up to stamps."""
    return epoch.dropped == 0 and 0 < epoch.batches <= len(epoch.waits) and len(epoch.steps) > 0


def span(epoch: Epoch) -> tuple[float, float]:
    """Return when an epoch began and ended, or how far it is known; what is missing goes on as the rest."""
    known = min(len(epoch.waits), len(epoch.steps))
    grow = max(epoch.batches, known) / known if known else 1.0
    return epoch.start, epoch.start + epoch.iter_seconds + grow * (sum(epoch.waits) + sum(epoch.steps))


def overlap(one: Epoch, other: Epoch) -> float:
    """Return the seconds in which both ran."""
    (first, last), (begun, ended) = span(one), span(other)
    return max(0.0, min(last, ended) - max(first, begun))


def concurrent_loader(epoch: Epoch, loader: Loader) -> ConcurrentLoader | None:
    """Return how another loader of the rank ran while an epoch did; None if it did not, or hardly.

    Where a loader is asked for a whole epoch within single steps of ours (validation within an epoch), its
    work is in those steps and beside none of the others: None as well.
    """
    found = max(loader.epochs, key=lambda other: overlap(epoch, other), default=None)
    if found is None:
        return None
    common, (first, last) = overlap(epoch, found), span(epoch)
    if common <= 0.1 * (last - first):
        return None
    cores = _cores(found.loads, first, last)
    if not is_whole(epoch) or not is_whole(found):
        return ConcurrentLoader(loader, found, 0.0, (), cores)
    taken = _taken_in(epoch, found)
    if taken.inside < floors.ZIPPED_MIN_SHARE * taken.batches:
        return ConcurrentLoader(loader, found, 0.0, (), cores)
    ours = len(epoch.waits) * common / (last - first)
    if taken.steps < floors.ZIPPED_MIN_STEPS_PER_BATCH * min(taken.inside, ours) or taken.batches == 0:
        return None
    per_batch = taken.inside / max(1.0, ours)
    return ConcurrentLoader(
        loader, found, min(per_batch, floors.ZIPPED_MAX_BATCHES_PER_STEP), tuple(taken.waits), cores
    )


@dataclass(slots=True)
class _Taken:
    """Batches of another loader that were asked for while an epoch of ours made steps."""

    waits: list[float]
    """By step of ours."""
    batches: int = 0
    inside: int = 0
    """Of them, within one step."""
    steps: int = 0
    """Steps of ours with such batches."""


def _taken_in(epoch: Epoch, other: Epoch) -> _Taken:
    asked, got = stamps(epoch)
    taken = _Taken([0.0] * len(got))
    newest = -1
    for begun, ended in zip(*stamps(other), strict=False):
        step = bisect_right(got, begun + floors.STAMP_ERROR_SECONDS) - 1
        if step < 0 or begun >= asked[-1]:
            continue
        taken.batches += 1
        if ended <= asked[step + 1] + floors.STAMP_ERROR_SECONDS:
            taken.inside += 1
            taken.waits[step] += ended - begun
            taken.steps += step > newest
            newest = step
    return taken


def _cores(loads: Sequence[Load], first: float, last: float) -> float:
    used = sum(x.cpu_seconds for x in loads if first <= x.start < last)
    return used / (last - first) if last > first else 0.0


def are_in_step(one: Epoch, other: Epoch) -> bool:
    """Whether two ranks keep in step: the ends of their steps stay where they are against each other."""
    if not is_whole(one) or not is_whole(other):
        return False
    ours, theirs = stamps(one)[0][1:], stamps(other)[0][1:]
    count = min(len(ours), len(theirs))
    if count < floors.MIN_SAMPLES:
        return False
    apart = sorted(a - b for a, b in zip(ours[:count], theirs[:count], strict=True))
    # Without the tenth at each end: a checkpoint by one rank is made up for by the next gathering.
    drift = apart[count - 1 - count // 10] - apart[count // 10]
    return drift <= floors.MAX_STEP_DRIFT * (ours[count - 1] - ours[0]) / (count - 1)
