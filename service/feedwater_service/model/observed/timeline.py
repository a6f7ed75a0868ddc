"""The stamps of batches, and which loaders of a pod ran at the same time.

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
    """Another loader of the rank that ran during an epoch of ours."""

    loader: Loader
    epoch: Epoch
    per_batch: float
    """Its batches for each of ours, where one loop takes both; else 0."""
    waits_in_steps: tuple[float, ...]
    """Shape (batches,), seconds: its wait within each of our steps; empty where no loop takes both."""
    cores: float
    """Cores that its loads used during our epoch."""

    @property
    def is_zipped(self) -> bool:
        """One loop takes both loaders' batches in turn."""
        return bool(self.waits_in_steps)


def stamps(epoch: Epoch) -> tuple[list[float], list[float]]:
    """Return when each batch was asked for and when it was delivered, and the end of the last step.

    Returns:
        Shapes (batches + 1,) and (batches,), seconds. Right only where no batch is missing, see `is_whole`.
    """
    asked, got = [epoch.start + epoch.iter_seconds], []
    for wait, step in zip(epoch.waits, epoch.steps, strict=False):
        got.append(asked[-1] + wait)
        asked.append(got[-1] + step)
    return asked, got


def is_whole(epoch: Epoch) -> bool:
    """Whether every batch so far is known, so that the sums of their times are stamps."""
    return epoch.dropped == 0 and 0 < epoch.batches <= len(epoch.waits) and len(epoch.steps) > 0


def span(epoch: Epoch) -> tuple[float, float]:
    """Return when an epoch began and ended; unknown batches are taken to be as long as the known ones."""
    known = min(len(epoch.waits), len(epoch.steps))
    grow = max(epoch.batches, known) / known if known else 1.0
    return epoch.start, epoch.start + epoch.iter_seconds + grow * (sum(epoch.waits) + sum(epoch.steps))


def overlap(one: Epoch, other: Epoch) -> float:
    """Return the seconds in which both ran."""
    (first, last), (begun, ended) = span(one), span(other)
    return max(0.0, min(last, ended) - max(first, begun))


def concurrent_loader(epoch: Epoch, loader: Loader, same_loop: bool = True) -> ConcurrentLoader | None:
    """Return another loader of the rank with its epoch that ran during ours; None for under a tenth of ours.

    Where a loader is asked for a whole epoch within single steps of ours (validation within an epoch), its
    work is in those steps and beside none of the others: None as well.

    Args:
        epoch: Ours.
        loader: The other one.
        same_loop: One loop may take batches of both: they are of one process.
    """
    found = max(loader.epochs, key=lambda other: overlap(epoch, other), default=None)
    if found is None:
        return None
    common, (first, last) = overlap(epoch, found), span(epoch)
    if common <= 0.1 * (last - first):
        return None
    cores = _cores(found.loads, first, last)
    if not same_loop or not is_whole(epoch) or not is_whole(found):
        return ConcurrentLoader(loader, found, 0.0, (), cores)
    taken = _batches_within_steps(epoch, found)
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
class _BatchesWithinSteps:
    """Batches of another loader that were asked for during our steps."""

    waits: list[float]
    """Seconds, for each of our steps."""
    batches: int = 0
    inside: int = 0
    """Batches that were asked for and delivered within one step."""
    steps: int = 0
    """Our steps with such batches."""


def _batches_within_steps(epoch: Epoch, other: Epoch) -> _BatchesWithinSteps:
    asked, got = stamps(epoch)
    taken = _BatchesWithinSteps([0.0] * len(got))
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
    """Whether two ranks keep in step: the distance between the ends of their steps does not drift."""
    if not is_whole(one) or not is_whole(other):
        return False
    ours, theirs = stamps(one)[0][1:], stamps(other)[0][1:]
    count = min(len(ours), len(theirs))
    if count < floors.MIN_SAMPLES:
        return False
    apart = sorted(a - b for a, b in zip(ours[:count], theirs[:count], strict=True))
    # Without the tenth at each end: after a checkpoint by one rank, the next gathering closes the gap again.
    drift = apart[count - 1 - count // 10] - apart[count // 10]
    return drift <= floors.MAX_STEP_DRIFT * (ours[count - 1] - ours[0]) / (count - 1)
