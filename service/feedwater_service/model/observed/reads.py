"""What an epoch read: its share that came from storage, and the workers that a stream's shards reached."""

from __future__ import annotations

from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.types import Epoch


def is_provisional(group: RankGroup) -> bool:
    """Whether the epoch read from storage what later ones will find in the page cache.

    Not if an earlier epoch did so too, nor if what was read does not fit into the memory that is left.
    """
    cold = cold_share(group.epoch)
    if cold is None or cold < floors.COLD_READ_SHARE:
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

    Memory-mapped files are not read by calls, so more may come from storage than passed through read calls.
    """
    reads = epoch.reads
    if reads is None or max(reads.chars, reads.from_storage_bytes) < floors.MIN_READ_BYTES:
        return None
    return min(1.0, reads.from_storage_bytes / max(1, reads.chars))


def known_shards(epoch: Epoch) -> int | None:
    """Return the number of workers that delivered anything, where some did not; None where all did."""
    workers = epoch.settings.num_workers
    whole = epoch.complete and epoch.dropped == 0 and len(epoch.loads) >= len(epoch.waits) >= epoch.batches
    busy = len({load.worker for load in epoch.loads if load.batch_tensors or load.batch_bytes})
    return busy if whole and 0 < busy < workers else None
