"""Fair shares: the part of a free resource that a loader may take while other loaders want more of it, too.

Loaders that run at the same time decide at the same time, from the same reading of what is free. Each may
grow by a part of it in proportion to its need, which all of them compute in the same way. Loaders that run
one after another each decide from a new reading, and share nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.numbers import grids, thresholds
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.observed.timeline import overlap
from feedwater_service.model.types import Epoch, Loader


@dataclass(frozen=True, slots=True)
class Need:
    """What a loader would add if nothing limited it."""

    workers: int
    worker_bytes: int
    batch_bytes: int
    """Of one worker's batches in its queue."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a loader would add of one resource, and what the loaders that run with it would."""

    ours: float
    others: float = 0.0
    rivals: int = 1
    """Loaders that share the resource, ours included."""

    @property
    def part(self) -> float:
        """Our part of the free amount where it is too little for all, 0 to 1."""
        return 1.0 if self.others == 0 else self.ours / (self.ours + self.others)

    def of(self, free: float) -> float:
        """Return what we may add of a free amount: our part of it, or all that the others do not want.

        Example: of 10 GiB where others want 2 and we none, half of the 8 that are left over.
        """
        if self.others == 0:
            return free
        over = free - self.ours - self.others
        return self.ours + over / self.rivals if over > 0 else self.part * free


def demand_of_memory(group: RankGroup, max_workers: int) -> Demand:
    """Return the demand for memory in bytes, of all ranks."""
    return _demand(group, max_workers, lambda n: n.workers * max(1, n.worker_bytes + n.batch_bytes))


def demand_of_shm(group: RankGroup, max_workers: int) -> Demand:
    """Return the demand for ``/dev/shm`` in bytes, of all ranks."""
    return _demand(group, max_workers, lambda n: n.workers * max(1, n.batch_bytes))


def demand_of_pids(group: RankGroup, max_workers: int) -> Demand:
    """Return the demand for worker processes, of all ranks."""
    return _demand(group, max_workers, lambda n: n.workers)


def beside_in_shm(group: RankGroup) -> int:
    """Return the bytes of ``/dev/shm`` that other loaders' queues fill while ours are full."""
    rivals = [x for x in _rivals(group) if x is not group.slowest]
    return group.ranks * sum(x.epochs[-1].settings.num_workers * _queue_bytes(x.epochs[-1]) for x in rivals)


def _rivals(group: RankGroup) -> list[Loader]:
    """The deciding rank's loaders that ran at the same time as ours, ours first."""
    others = (x for x in group.others if x.rank == group.slowest.rank)
    return [group.slowest, *(x for x in others if overlap(group.epoch, x.epochs[-1]) > 0)]


def _demand(group: RankGroup, max_workers: int, cost: Callable[[Need], int]) -> Demand:
    rivals = _rivals(group)
    if len(rivals) == 1:
        return Demand(0.0)
    costs = [group.ranks * cost(need(x, [o for o in rivals if o is not x], max_workers)) for x in rivals]
    return Demand(costs[0], sum(costs[1:]), len(rivals))


def need(loader: Loader, others: Sequence[Loader], max_workers: int) -> Need:
    """Return what a loader would add to meet its step, that of its loop without waiting for others.

    Args:
        loader: Whose need it is.
        others: Loaders of the same loop.
        max_workers: That the policy allows.
    """
    epoch = loader.epochs[-1]
    loads = epoch.loads[: grids.NEED_LOADS]
    load = fmean(x.own_seconds for x in loads) if loads else 0.0
    ours = max(1, len(epoch.steps))
    waits = sum(sum(x.epochs[-1].waits[1:]) for x in others)
    step = max(0.1 * sum(epoch.steps), sum(epoch.steps) - waits) / ours
    wanted = min(
        max_workers, math.ceil(thresholds.LOAD_TIME_MARGIN * load / max(step, thresholds.MIN_STEP_SECONDS))
    )
    more = max(0, wanted - epoch.settings.num_workers)
    return Need(more, _worker_bytes(epoch), _queue_bytes(epoch))


def _worker_bytes(epoch: Epoch) -> int:
    known = [m.own_bytes for m in epoch.memory]
    return max((k for k in known if k is not None), default=0)


def _queue_bytes(epoch: Epoch) -> int:
    largest = max((x.batch_bytes for x in epoch.loads[: grids.NEED_LOADS]), default=0)
    return largest * (epoch.settings.prefetch_factor or 2)


def grown(now: float, free: float, demand: Demand | float) -> float:
    """Return what a group may use in all: what it uses now, and its part of what is free besides.

    Example: 2 GiB in use and 6 that could be taken, a half for each of two: 2 + (6 - 2) / 2 = 4 GiB.
    """
    if free <= now:
        return free
    more = demand.of(free - now) if isinstance(demand, Demand) else demand * (free - now)
    return now + more
