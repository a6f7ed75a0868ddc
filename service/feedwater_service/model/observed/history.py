"""The part of a loader's history that belongs to its present workload and budget.

A setting that failed under half a core may be right under four, and a ceiling of storage that was met with
large images is none for small ones. What workers took in memory stays true, and is read from all epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from feedwater_service.model.numbers import floors
from feedwater_service.model.types import Budget, Change, Epoch, Loader


@dataclass(frozen=True, slots=True)
class _WorkloadProfile:
    """Mean times and sizes of an epoch, by which workloads are compared. 0 is not known."""

    workers: int
    cpu: float
    blocked: float
    batch_bytes: float
    step: float

    @property
    def load(self) -> float:
        """Blocked and CPU seconds of a load."""
        return self.cpu + self.blocked


def recent_history(loader: Loader, budget: Budget) -> Loader:
    """Return the loader with only the epochs, changes and failures of its present budget and workload."""
    since = steady_since(loader.epochs, budget)
    old = [c for c in loader.changes if not _still_counts(c, since, budget)]
    if not old and since is None:
        return loader
    changes = tuple(c for c in loader.changes if c not in old)
    forgiven = {c.before for c in old if c.rolls_back} - {c.before for c in changes if c.rolls_back}
    return replace(
        loader,
        epochs=tuple(e for e in loader.epochs if since is None or e.number >= since),
        changes=changes,
        failed=tuple(s for s in loader.failed if s not in forgiven),
    )


def steady_since(epochs: Sequence[Epoch], budget: Budget) -> int | None:
    """Return the number of the first epoch of the present budget and workload; None if no other is known."""
    if not epochs:
        return None
    newer = epochs[-1]
    now = _profile(newer)
    for epoch in reversed(epochs[:-1]):
        before = _profile(epoch)
        if not same_budget(epoch.budget, budget) or _is_other_workload(
            before, now, epoch.settings == newer.settings
        ):
            return newer.number
        newer, now = epoch, before
    return None


def same_budget(one: Budget | None, other: Budget | None) -> bool:
    """Whether two budgets have equal CPUs, memory and shared memory; an unknown budget equals any."""
    if one is None or other is None:
        return True
    return (
        _within_tolerance(one.cores, other.cores)
        and _within_tolerance(one.memory_bytes, other.memory_bytes)
        and _within_tolerance(one.shm_bytes, other.shm_bytes)
    )


def _within_tolerance(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= floors.BUDGET_TOLERANCE * max(one, other)


def _still_counts(change: Change, since: int | None, budget: Budget) -> bool:
    # A change that took effect in the first epoch of this workload was decided on the workload before.
    return (since is None or change.first_epoch > since) and same_budget(change.budget, budget)


def _profile(epoch: Epoch) -> _WorkloadProfile:
    loads = epoch.loads
    known = len(loads) >= floors.MIN_SAMPLES
    sizes = [x.batch_bytes for x in loads if x.batch_bytes]
    steps = sorted(epoch.steps)
    return _WorkloadProfile(
        epoch.settings.num_workers,
        fmean(x.cpu_seconds for x in loads) if known else 0.0,
        fmean(x.blocked_seconds for x in loads) if known else 0.0,
        fmean(sizes) if len(sizes) >= floors.MIN_SAMPLES else 0.0,
        # The lower quartile: steps that were not frozen by a quota.
        steps[len(steps) // 4] if len(steps) >= floors.MIN_SAMPLES else 0.0,
    )


def _is_other_workload(old: _WorkloadProfile, new: _WorkloadProfile, same_settings: bool) -> bool:
    if _ratio(old.batch_bytes, new.batch_bytes) > floors.BATCH_BYTES_CHANGE_FACTOR:
        return True
    known = old.load > 0 and new.load > 0
    if same_settings:
        loads = _ratio(old.load, new.load, floors.MIN_COMPARED_SECONDS) if known else 1.0
        steps = (
            _ratio(old.step, new.step, floors.MIN_COMPARED_SECONDS) if old.step > 0 and new.step > 0 else 1.0
        )
        return max(loads, steps) > floors.WORKLOAD_CHANGE_FACTOR
    if not known or (old.workers == 0) != (new.workers == 0):
        # Workers fill shared memory, which takes most of their CPU time for large batches; without workers
        # nothing is copied.
        return False
    return _ratio(
        old.cpu, new.cpu, floors.MIN_COMPARED_SECONDS
    ) > floors.WORKLOAD_CHANGE_FACTOR_OTHER_COUNT or _storage_got_faster(old, new)


def _storage_got_faster(old: _WorkloadProfile, new: _WorkloadProfile) -> bool:
    """Whether loads were blocked for less time under more workers, which cannot have made storage faster."""
    fewer, more = (old, new) if old.workers < new.workers else (new, old)
    slight = max(floors.MIN_COMPARED_SECONDS, 0.2 * (more.cpu + more.blocked))
    return (
        fewer.blocked > floors.WORKLOAD_CHANGE_FACTOR * more.blocked and fewer.blocked - more.blocked > slight
    )


def _ratio(one: float, other: float, slight: float = 0.0) -> float:
    """The larger value over the smaller one; 1 where both are too small to compare."""
    least, most = min(one, other), max(one, other)
    if most <= slight or (slight == 0.0 and least <= 0):
        return 1.0
    return most / max(least, slight)
