"""How many workers the pod carries: one small rule per limit, each of which can say what it found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from feedwater_service.model.choose.fair_share import (
    beside_in_shm,
    demand_of_memory,
    demand_of_pids,
    demand_of_shm,
    grown,
)
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.observed.group import Group
from feedwater_service.model.types import ContainerUsage, Epoch, Policy, WorkerMemory

KEPT_BATCHES = 2
"""Batches that a loop usually holds: the current one, and the last one until its name is bound anew."""
SHM_SHARE = 0.9
"""Of ``/dev/shm`` that is planned for: a full one is an error that ends training."""
PIDS_PER_WORKER = 2
"""A worker and its feeder thread; pids.max counts threads."""
FILES_PER_WORKER = 6
"""Pipes of its index queue and its sentinel, in the main process."""
FILES_KEPT = 256
"""Open files left to the training itself."""
WELL_SEEN = 0.5
"""Share of an epoch after which memory must have been read to say how much it grew: what is copied on write
grows as samples are read."""
FIRST_WORKERS = 4
"""The most to begin with where nothing is known of a worker's memory, however much there is."""
LEAST_FREE = 256 * 2**20
"""Bytes that must be free for a first worker: what one with torch takes of its own where it copies little."""
READ_BYTES = 16 * 2**20
"""Bytes that must have been read to speak of the page cache."""
COLD = 0.2
"""Share of what was read that came from storage, from which an epoch is cold."""
AT_ONCE_SECONDS = 0.05
"""After ``iter()`` was called, within which a reading is still one without its workers."""
LEAST_WORKER = 16 * 2**20
"""What a worker is planned for at least, where its memory was told from the container's: a forked one that
did next to nothing took 11 MiB."""
FEW_AT_ONCE = 8
"""Concurrent loads that may be tried whatever was seen: no storage that people train on minds them."""
UNEVEN = 1.2
"""Times the even share that a worker's shards must stay below, for a count to be recommended."""
BLIND = 4
"""Raise at most this many times the concurrency that was seen: storage may have a ceiling above it."""


HARD = frozenset({"policy", "memory", "shm", "pids"})
"""Kinds of caps that fewer workers are right for whatever is lost: what the sidecar was told, and what was
measured to be short. All others are reasons not to try more: what is in use was seen to work."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most workers that one limit allows to each rank."""

    kind: str
    workers: int
    text: str
    """Why, as a phrase: ``/dev/shm of 64 MiB holds 3 workers' batches of 10 MiB, 2 each``."""

    @property
    def is_hard(self) -> bool:
        """Whether it stands against the workers in use, too, not only against more of them."""
        return self.kind in HARD

    def allows(self, now: int) -> int:
        """Return the most workers that may be recommended where ``now`` are in use."""
        return self.workers if self.is_hard else max(self.workers, now)


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
        return None if self.batch_bytes is None else self.batch_bytes * (workers * prefetch + KEPT_BATCHES)


def footprint(group: Group) -> Footprint:
    """Return what the group's workers were seen to take, over its whole history."""
    epochs = [e for x in group.loaders for e in x.epochs]
    sizes = [load.batch_bytes for e in epochs for load in e.loads if load.batch_bytes]
    batch = max(sizes) if sizes else None
    worker = _largest(map(_worker_bytes, epochs))
    if worker is None:
        worker = _largest(map(_by_the_container, epochs))
    return Footprint(worker, batch, _rest_bytes(group, worker, batch))


def _worker_bytes(epoch: Epoch) -> int | None:
    """The most that one worker took, carried on to the end of the epoch as it grew between two readings."""
    return max(
        (b for row in _own_memory(epoch).values() if (b := _at_end(row, epoch)) is not None), default=None
    )


def _largest(found: Iterable[int | None]) -> int | None:
    return max((f for f in found if f is not None), default=None)


def _by_the_container(epoch: Epoch) -> int | None:
    """What each worker added to the container's memory: all that a short epoch shows.

    None for workers that were there before it, or without a reading before their start and one beside them.
    """
    workers = epoch.settings.num_workers
    readings = [(c.stamp, c.memory_bytes) for c in epoch.containers if c.memory_bytes is not None]
    started = epoch.start + epoch.iter_seconds
    before = [b for at, b in readings if at <= epoch.start + AT_ONCE_SECONDS]
    beside = [b for at, b in readings if started < at < end_of(epoch)]
    if workers == 0 or epoch.settings.persistent_workers or not before or not beside:
        return None
    return max(LEAST_WORKER, (max(beside) - before[-1]) // workers)


def _own_memory(epoch: Epoch) -> dict[int, list[WorkerMemory]]:
    """Readings of workers' own memory, by worker."""
    rows: dict[int, list[WorkerMemory]] = {}
    for m in epoch.memory:
        if m.own_bytes is not None:
            rows.setdefault(m.worker, []).append(m)
    return rows


def _at_end(row: Sequence[WorkerMemory], epoch: Epoch) -> int:
    """One worker's memory at the end of the epoch; no more than its RSS unless it was seen to take more."""
    seen = max(m.own_bytes or 0 for m in row)
    first, last = row[0], row[-1]
    watched, left = last.stamp - first.stamp, end_of(epoch) - last.stamp
    if watched <= 0 or left <= 0:
        return seen
    grown = (last.own_bytes or 0) - (first.own_bytes or 0)
    then = (last.own_bytes or 0) + max(0.0, grown * min(left / watched, 1 / WELL_SEEN))
    most = max((m.rss_bytes for m in row if m.rss_bytes is not None), default=then)
    return int(max(seen, min(then, most)))


def memory_growth(epoch: Epoch) -> tuple[int, int] | None:
    """Return the first and the last reading of the worker that grew most; None without two of any."""
    rows = [r for r in _own_memory(epoch).values() if len(r) > 1 and r[-1].stamp > r[0].stamp]
    pairs = [(r[0].own_bytes or 0, r[-1].own_bytes or 0) for r in rows]
    return max(pairs, key=lambda p: p[1] - p[0], default=None)


def end_of(epoch: Epoch) -> float:
    """Return the stamp at which the last batch was through, as far as it is known."""
    return epoch.start + epoch.iter_seconds + sum(epoch.waits) + sum(epoch.steps)


def _rest_bytes(group: Group, worker: int | None, batch: int | None) -> int | None:
    """What the container holds besides the group's workers and what was in their queues at the time."""
    epoch = group.epoch
    newest = () if group.pod.container is None else (group.pod.container,)
    queues = group.ranks * (batch or 0) * epoch.settings.queue_batches
    ours = group.ranks * (worker or 0) * epoch.settings.num_workers
    # A starved loader's queues are empty: what was not in them is still to come beside the rest.
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
    return container.stamp <= epoch.start + AT_ONCE_SECONDS or (epoch.complete and container.stamp >= ended)


def caps(group: Group, estimate: Estimate, policy: Policy, prefetch: int) -> list[Cap]:
    """Return what each limit allows, the tightest first."""
    foot = footprint(group)
    rules: Iterable[Cap | None] = (
        Cap("policy", policy.max_workers, f"policy allows {workers_text(policy.max_workers)}"),
        Cap("batches", estimate.batches, f"an epoch has {estimate.batches} batches"),
        _memory_cap(group, foot, policy, prefetch),
        _shm_cap(group, foot, prefetch),
        _pids_cap(group),
        _files_cap(group, estimate, prefetch),
        _blind_cap(group, estimate),
        _cold_cap(group),
        _shards_cap(group),
    )
    return sorted((c for c in rules if c is not None), key=lambda c: c.workers)


def _memory_cap(group: Group, foot: Footprint, policy: Policy, prefetch: int) -> Cap | None:
    limit = group.pod.budget.memory_bytes
    if limit is None:
        return None
    each = foot.memory_bytes(1, prefetch)
    planned = limit * (1 - policy.memory_margin)
    if each is None or foot.rest_bytes is None:
        return _first_cap(group, foot, planned, prefetch)
    ours = group.ranks * each * group.epoch.settings.num_workers
    free = grown(ours, planned - foot.rest_bytes, demand_of_memory(group))
    fits = max(0, int(free / group.ranks / max(1, each)))
    if _fitted(group, planned) and prefetch <= (group.epoch.settings.prefetch_factor or 2):
        fits = max(fits, group.epoch.settings.num_workers)
    fitting = f"{workers_text(fits)} of {_mib(each)}"
    text = f"memory limit {_mib(limit)} carries {fitting} beside {_mib(foot.rest_bytes)}"
    if not _saw_growth(group):
        # Until growth was seen a worker may come to all that it shares with the trainer, and no further.
        shared = max(each, _most_resident(group) + prefetch * (foot.batch_bytes or 0))
        safe = max(_doubled(group), int(free / group.ranks / shared))
        if safe < fits:
            return _growth(safe)
    return Cap("memory", fits, text)


def _fitted(group: Group, planned: float) -> bool:
    """Whether the settings in use were seen to fit for a whole epoch: worth more than a projection."""
    used = [c.memory_bytes for c in group.epoch.containers if c.memory_bytes is not None]
    return group.epoch.complete and len(used) > 1 and max(used) <= planned


def _first_cap(group: Group, foot: Footprint, planned: float, prefetch: int) -> Cap:
    """Before a worker's own memory was read: each may come to all that it shares, and that has to fit."""
    now = group.epoch.settings.num_workers
    if foot.rest_bytes is None:
        return _growth(_doubled(group))
    free = (planned - foot.rest_bytes) / group.ranks
    worst = max(1, _most_resident(group) or foot.rest_bytes) + prefetch * (foot.batch_bytes or 0)
    # Where even workers of twice that size fit, there is nothing to be careful about.
    most = max(FIRST_WORKERS, _doubled(group), int(free / (2 * worst)))
    more = int(free / worst)
    if now == 0 and more == 0 and free >= max(worst / 2, LEAST_FREE):
        # A trainer that fills most of its limit holds more than its workers will ever touch.
        more = 1
    return _growth(min(most, now + max(0, more)))


def _growth(most: int) -> Cap:
    return Cap("growth", most, f"at most {most} workers until their memory growth is known")


def _doubled(group: Group) -> int:
    return max(2, 2 * group.epoch.settings.num_workers)


def _most_resident(group: Group) -> int:
    """The largest RSS of a worker: shared pages in full, the most that copying them can come to."""
    return max(
        (m.rss_bytes for x in group.loaders for e in x.epochs for m in e.memory if m.rss_bytes is not None),
        default=0,
    )


def _saw_growth(group: Group) -> bool:
    """Whether an epoch with workers was watched to its end: copy-on-write grows as samples are read."""
    return any(
        e.complete and e.settings.num_workers > 0 and _is_watched(e) for x in group.loaders for e in x.epochs
    )


def _is_watched(epoch: Epoch) -> bool:
    """Whether a worker's own memory was read in the later part of the epoch."""
    stamps = [m.stamp for m in epoch.memory if m.own_bytes is not None]
    begun = epoch.start + epoch.iter_seconds
    return bool(stamps) and max(stamps) - begun >= WELL_SEEN * (end_of(epoch) - begun)


def _shm_cap(group: Group, foot: Footprint, prefetch: int) -> Cap | None:
    size = group.pod.budget.shm_bytes
    if size is None:
        return None
    batch = foot.batch_bytes
    if batch is None:
        most = _doubled(group)
        return Cap("growth", most, f"at most {most} workers until the size of a batch is known")
    ours = group.ranks * batch * (group.epoch.settings.queue_batches + KEPT_BATCHES)
    free = grown(ours, size * SHM_SHARE - beside_in_shm(group), demand_of_shm(group))
    fits = max(0, int((free / group.ranks / batch - KEPT_BATCHES) / prefetch))
    whose = "1 worker's" if fits == 1 else f"{fits} workers'"
    text = f"/dev/shm of {_mib(size)} holds {whose} batches of {_mib(batch)}, {prefetch} each"
    return Cap("shm", fits, text)


def _pids_cap(group: Group) -> Cap | None:
    limit, container = group.pod.budget.pids, group.pod.container
    if limit is None or container is None or container.pids is None:
        return None
    more = demand_of_pids(group).of((limit * 0.9 - container.pids) / PIDS_PER_WORKER) / group.ranks
    fits = max(0, group.epoch.settings.num_workers + int(more))
    return Cap("pids", fits, f"pids.max {limit} allows {workers_text(fits)}")


def _files_cap(group: Group, estimate: Estimate, prefetch: int) -> Cap | None:
    limit = group.pod.budget.open_files
    if limit is None:
        return None
    tensors = max((load.batch_tensors for load in group.epoch.loads), default=1) or 1
    fits = max(1, int((limit - FILES_KEPT) / (FILES_PER_WORKER + prefetch * tensors)))
    return Cap("files", fits, f"{limit} open files allow {workers_text(fits)}")


def _blind_cap(group: Group, estimate: Estimate) -> Cap | None:
    """Nothing shows a ceiling of storage before it is met: a starved loader keeps every worker busy."""
    if estimate.blocked_seconds < 0.5 * estimate.load_seconds:
        return None
    if group.slowest.shards is not None and not group.slowest.can_apply:
        # Changed between runs alone: the right count at once, not by way of several restarts.
        return None
    seen = max(1, *(e.settings.num_workers for x in group.loaders for e in x.epochs))
    if BLIND * seen < FEW_AT_ONCE:
        return Cap("blind", FEW_AT_ONCE, f"{FEW_AT_ONCE} concurrent loads until storage is known better")
    return Cap("blind", BLIND * seen, f"{BLIND} times the {seen} concurrent loads seen so far")


def _cold_cap(group: Group) -> Cap | None:
    """Loads that will be faster once the page cache is filled say too much of how many workers they take."""
    if not is_provisional(group):
        return None
    most = _doubled(group)
    return Cap("cold", most, f"at most {most} workers until the page cache is filled")


def is_provisional(group: Group) -> bool:
    """Whether the epoch read from storage what later ones will find in the page cache.

    Not if an earlier epoch did so too, nor if what was read does not fit into the memory that is left.
    """
    cold = cold_share(group.epoch)
    if cold is None or cold < COLD:
        return False
    before = [share for e in group.slowest.epochs[:-1] if (share := cold_share(e)) is not None]
    limit, newest = group.pod.budget.memory_bytes, group.pod.container
    used = newest.memory_bytes if newest is not None else None
    reads = group.epoch.reads
    if limit is not None and used is not None and reads is not None:
        return not before and reads.from_storage_bytes * group.ranks < limit - used
    return not before


def cold_share(epoch: Epoch) -> float | None:
    """Return the share of what was read that came from storage, 0 to 1; None where too little was read.

    What is mapped into memory is not read by calls, so storage may give more than passed through them.
    """
    reads = epoch.reads
    if reads is None or max(reads.chars, reads.from_storage_bytes) < READ_BYTES:
        return None
    return min(1.0, reads.from_storage_bytes / max(1, reads.chars))


def _shards_cap(group: Group) -> Cap | None:
    if group.slowest.map_style:
        return None
    shards, stated = known_shards(group.epoch), group.slowest.shards
    if shards is not None:
        return Cap("shards", shards, f"only {shards} workers got samples: the dataset has no more shards")
    if stated is not None:
        return Cap("shards", max(1, stated), f"the dataset has {stated} shards, one worker for each at most")
    most = _doubled(group)
    return Cap("shards", most, f"at most {most} workers where the number of shards is not known")


def shares_evenly(workers: int, shards: int | None) -> bool:
    """Whether shards are dealt out to so many workers without most of them waiting for a few.

    Example: 8 shards to 6 workers are 2 to two of them, which takes as long as with 4: 2 x 6 / 8 is 1.5.
    """
    if shards is None or workers == 0:
        return True
    return math.ceil(shards / workers) * workers < UNEVEN * shards


def known_shards(epoch: Epoch) -> int | None:
    """Return the number of workers that delivered anything, where some did not; None where all did."""
    workers = epoch.settings.num_workers
    whole = epoch.complete and epoch.dropped == 0 and len(epoch.loads) >= len(epoch.waits) >= epoch.batches
    busy = len({load.worker for load in epoch.loads if load.batch_tensors or load.batch_bytes})
    return busy if whole and 0 < busy < workers else None


def tightest(found: Sequence[Cap], now: int) -> Cap:
    """Return the cap that binds where ``now`` workers are in use: the one that allows the fewest."""
    return min(found, key=lambda c: (c.allows(now), c.workers))


def workers_text(count: int) -> str:
    """Return a count in words: "1 worker", "2 workers"."""
    return "1 worker" if count == 1 else f"{count} workers"


def _mib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"
