"""How many workers the pod carries: one small rule per limit, each of which can say what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from feedwater_service.model.estimate import Estimate
from feedwater_service.model.group import Group
from feedwater_service.model.values import Epoch, Policy

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
BLIND = 4
"""Raise at most this many times the concurrency that was seen: storage may have a ceiling above it."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most workers that one limit allows to each rank."""

    kind: str
    workers: int
    text: str


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
    worker = max((w for e in epochs if (w := _worker_bytes(e)) is not None), default=None)
    return Footprint(worker, batch, _rest_bytes(group, worker, batch))


def _worker_bytes(epoch: Epoch) -> int | None:
    known = [m.pss_bytes if m.pss_bytes is not None else m.uss_bytes for m in epoch.memory]
    return max((k for k in known if k is not None), default=None)


def _rest_bytes(group: Group, worker: int | None, batch: int | None) -> int | None:
    epoch = group.epoch
    used = [c.memory_bytes for c in epoch.containers if c.memory_bytes is not None]
    if group.pod.container is not None and group.pod.container.memory_bytes is not None:
        used.append(group.pod.container.memory_bytes)
    if not used:
        return None
    ours = (worker or 0) * epoch.settings.num_workers + (batch or 0) * epoch.settings.queue_batches
    return max(0, max(used) - group.ranks * ours)


def caps(group: Group, estimate: Estimate, policy: Policy, prefetch: int) -> list[Cap]:
    """Return what each limit allows, the tightest first."""
    foot = footprint(group)
    rules: Iterable[Cap | None] = (
        Cap("policy", policy.max_workers, f"policy allows {policy.max_workers} workers"),
        Cap("batches", estimate.batches, f"an epoch has {estimate.batches} batches"),
        _memory_cap(group, foot, policy, prefetch),
        _shm_cap(group, foot, prefetch),
        _pids_cap(group),
        _files_cap(group, estimate, prefetch),
        _blind_cap(group, estimate),
        _shards_cap(group),
    )
    return sorted((c for c in rules if c is not None), key=lambda c: c.workers)


def _memory_cap(group: Group, foot: Footprint, policy: Policy, prefetch: int) -> Cap | None:
    limit = group.pod.budget.memory_bytes
    if limit is None:
        return None
    now = group.epoch.settings.num_workers
    each = foot.memory_bytes(1, prefetch)
    if each is None or foot.rest_bytes is None or not _saw_growth(group):
        doubled = max(2, 2 * now)
        return Cap("growth", doubled, f"at most {doubled} workers until their memory growth is known")
    free = limit * (1 - policy.memory_margin) - foot.rest_bytes
    fits = max(0, int(free / group.ranks / max(1, each)))
    text = f"memory limit {_mib(limit)} carries {fits} workers of {_mib(each)} beside {_mib(foot.rest_bytes)}"
    return Cap("memory", fits, text)


def _saw_growth(group: Group) -> bool:
    """Whether an epoch with workers was watched to its end: copy-on-write grows as samples are read."""
    return any(
        e.complete and e.settings.num_workers > 0 and _worker_bytes(e) is not None
        for x in group.loaders
        for e in x.epochs
    )


def _shm_cap(group: Group, foot: Footprint, prefetch: int) -> Cap | None:
    size = group.pod.budget.shm_bytes
    if size is None:
        return None
    batch = foot.batch_bytes
    if batch is None:
        doubled = max(2, 2 * group.epoch.settings.num_workers)
        return Cap("growth", doubled, f"at most {doubled} workers until the size of a batch is known")
    fits = max(0, int((size * SHM_SHARE / group.ranks / batch - KEPT_BATCHES) / prefetch))
    text = f"/dev/shm of {_mib(size)} holds {fits} workers' batches of {_mib(batch)}, {prefetch} each"
    return Cap("shm", fits, text)


def _pids_cap(group: Group) -> Cap | None:
    limit, container = group.pod.budget.pids, group.pod.container
    if limit is None or container is None or container.pids is None:
        return None
    more = (limit * 0.9 - container.pids) / PIDS_PER_WORKER / group.ranks
    fits = max(0, group.epoch.settings.num_workers + int(more))
    return Cap("pids", fits, f"pids.max {limit} allows {fits} workers")


def _files_cap(group: Group, estimate: Estimate, prefetch: int) -> Cap | None:
    limit = group.pod.budget.open_files
    if limit is None:
        return None
    tensors = max((load.batch_tensors for load in group.epoch.loads), default=1) or 1
    fits = max(1, int((limit - FILES_KEPT) / (FILES_PER_WORKER + prefetch * tensors)))
    return Cap("files", fits, f"{limit} open files allow {fits} workers")


def _blind_cap(group: Group, estimate: Estimate) -> Cap | None:
    """Nothing shows a ceiling of storage before it is met: a starved loader keeps every worker busy."""
    if estimate.blocked_seconds < 0.5 * estimate.load_seconds:
        return None
    seen = max(1, *(e.settings.num_workers for x in group.loaders for e in x.epochs))
    return Cap("blind", BLIND * seen, f"{BLIND} times the {seen} concurrent loads seen so far")


def _shards_cap(group: Group) -> Cap | None:
    loader = group.slowest
    if loader.map_style:
        return None
    doubled = max(2, 2 * group.epoch.settings.num_workers)
    return Cap("shards", doubled, f"at most {doubled} workers where the number of shards is not known")


def tightest(found: list[Cap], but: Callable[[Cap], bool] = lambda c: False) -> Cap:
    """Return the cap that allows the fewest workers, leaving some kinds out."""
    return next(c for c in found if not but(c))


def _mib(amount: int) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"
