"""What a loader's workers and queues take of memory, from readings of each worker and of the container."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from feedwater_service.model.numbers import costs, floors
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.types import ContainerUsage, Epoch, WorkerMemory


@dataclass(frozen=True, slots=True)
class Footprint:
    """What workers cost in memory. None is not known."""

    worker_bytes: int | None
    """Of one worker at the end of an epoch: PSS or USS, never RSS."""
    batch_bytes: int | None
    rest_bytes: int | None
    """Of the container without the group's workers and queues."""

    def memory_bytes(self, workers: int, prefetch: int) -> int | None:
        """Return what one rank's workers and queues take."""
        if workers == 0:
            return 0
        if self.worker_bytes is None:
            return None
        return workers * (self.worker_bytes + prefetch * (self.batch_bytes or 0))

    def shm_bytes(self, workers: int, prefetch: int) -> int | None:
        """Return what one rank's queues take of ``/dev/shm``."""
        if workers == 0:
            return 0
        return (
            None if self.batch_bytes is None else self.batch_bytes * (workers * prefetch + costs.HELD_BATCHES)
        )


def footprint(group: RankGroup) -> Footprint:
    """Return the most that the group's workers took in its whole history."""
    epochs = [e for x in group.loaders for e in x.epochs]
    sizes = [load.batch_bytes for e in epochs for load in e.loads if load.batch_bytes]
    batch = max(sizes) if sizes else None
    worker = _largest(map(_worker_bytes, epochs))
    if worker is None:
        worker = _largest(map(_worker_bytes_by_container, epochs))
    return Footprint(worker, batch, _rest_bytes(group, worker, batch))


def _worker_bytes(epoch: Epoch) -> int | None:
    """The memory of the largest worker, extrapolated to the end of the epoch by its growth."""
    return max(
        (b for row in _own_memory(epoch).values() if (b := _extrapolated_to_end(row, epoch)) is not None),
        default=None,
    )


def _largest(found: Iterable[int | None]) -> int | None:
    return max((f for f in found if f is not None), default=None)


def _worker_bytes_by_container(epoch: Epoch) -> int | None:
    """What each worker added to the container's memory, for short epochs in which no worker was read.

    None for workers that were there before it, or without a reading before their start and one beside them.
    """
    workers = epoch.settings.num_workers
    readings = [(c.stamp_seconds, c.memory_bytes) for c in epoch.containers if c.memory_bytes is not None]
    started = epoch.start + epoch.iter_seconds
    before = [b for at, b in readings if at <= epoch.start + floors.BEFORE_WORKERS_SECONDS]
    beside = [b for at, b in readings if started < at < end_of(epoch)]
    if workers == 0 or epoch.settings.persistent_workers or not before or not beside:
        return None
    return max(costs.MIN_WORKER_BYTES, (max(beside) - before[-1]) // workers)


def _own_memory(epoch: Epoch) -> dict[int, list[WorkerMemory]]:
    """Readings of workers' own memory, by worker."""
    rows: dict[int, list[WorkerMemory]] = {}
    for m in epoch.memory:
        if m.own_bytes is not None:
            rows.setdefault(m.worker, []).append(m)
    return rows


def _extrapolated_to_end(row: Sequence[WorkerMemory], epoch: Epoch) -> int:
    """One worker's memory at the end of the epoch; at most its RSS, unless a reading was larger."""
    seen = max(m.own_bytes or 0 for m in row)
    first, last = row[0], row[-1]
    watched, left = last.stamp_seconds - first.stamp_seconds, end_of(epoch) - last.stamp_seconds
    if watched <= 0 or left <= 0:
        return seen
    growth = (last.own_bytes or 0) - (first.own_bytes or 0)
    then = (last.own_bytes or 0) + max(0.0, growth * min(left / watched, 1 / floors.MEMORY_SEEN_SHARE))
    most = max((m.rss_bytes for m in row if m.rss_bytes is not None), default=then)
    return int(max(seen, min(then, most)))


def memory_growth(epoch: Epoch) -> tuple[int, int] | None:
    """Return the first and the last reading of the worker that grew most; None without two of any."""
    rows = [r for r in _own_memory(epoch).values() if len(r) > 1 and r[-1].stamp_seconds > r[0].stamp_seconds]
    pairs = [(r[0].own_bytes or 0, r[-1].own_bytes or 0) for r in rows]
    return max(pairs, key=lambda p: p[1] - p[0], default=None)


def end_of(epoch: Epoch) -> float:
    """Return the stamp of the end of the last known step."""
    return epoch.start + epoch.iter_seconds + sum(epoch.waits) + sum(epoch.steps)


def _rest_bytes(group: RankGroup, worker: int | None, batch: int | None) -> int | None:
    """The container's memory without the group's workers and what was in their queues."""
    epoch = group.epoch
    newest = () if group.pod.container is None else (group.pod.container,)
    queues = group.ranks * (batch or 0) * epoch.settings.queue_batches
    ours = group.ranks * (worker or 0) * epoch.settings.num_workers
    # A starved loader's queues are empty, so no more than the shared memory in use is taken off for them.
    rests = [
        c.memory_bytes
        if _is_without_workers(c, epoch)
        else c.memory_bytes - ours - min(queues, c.shm_bytes if c.shm_bytes is not None else queues)
        for c in (*epoch.containers, *newest)
        if c.memory_bytes is not None
    ]
    return max(0, *rests) if rests else None


def _is_without_workers(container: ContainerUsage, epoch: Epoch) -> bool:
    """Whether a reading is from before an epoch's workers were started, or after they ended."""
    if epoch.settings.persistent_workers or epoch.start <= 0:
        return False
    ended = end_of(epoch) + epoch.teardown_seconds
    return container.stamp_seconds <= epoch.start + floors.BEFORE_WORKERS_SECONDS or (
        epoch.complete and container.stamp_seconds >= ended
    )


def most_resident(group: RankGroup) -> int:
    """Return the largest RSS of a worker: with all shared pages, the most that copy-on-write can lead to."""
    return max(
        (m.rss_bytes for x in group.loaders for e in x.epochs for m in e.memory if m.rss_bytes is not None),
        default=0,
    )


def saw_growth(group: RankGroup) -> bool:
    """Whether an epoch with workers was watched to its end: copy-on-write grows as samples are read."""
    return any(
        e.complete and e.settings.num_workers > 0 and _is_watched(e) for x in group.loaders for e in x.epochs
    )


def _is_watched(epoch: Epoch) -> bool:
    """Whether a worker's own memory was read in the later part of the epoch."""
    stamps = [m.stamp_seconds for m in epoch.memory if m.own_bytes is not None]
    begun = epoch.start + epoch.iter_seconds
    return bool(stamps) and max(stamps) - begun >= floors.MEMORY_SEEN_SHARE * (end_of(epoch) - begun)
