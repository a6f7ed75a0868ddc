"""How many workers the pod carries: one small rule for each limit, with its reason in words."""

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
from feedwater_service.model.fit.memory import Footprint, footprint, most_resident, saw_growth
from feedwater_service.model.numbers import costs, thresholds
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.observed.reads import is_provisional, known_shards
from feedwater_service.model.text import bytes_text, workers_text
from feedwater_service.model.types import Policy

HARD = frozenset({"policy", "memory", "shm", "pids"})
"""Kinds of caps that reduce the workers in use, even at a loss: the policy, and resources that were measured
to be short. All others only limit how far the count is raised, as the count in use was seen to work."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The most workers that one limit allows to each rank."""

    kind: str
    workers: int
    text: str
    """Why, as a phrase: ``/dev/shm of 64 MiB holds 3 workers' batches of 10 MiB, 2 each``."""

    @property
    def is_hard(self) -> bool:
        """Whether the cap also reduces the workers in use."""
        return self.kind in HARD

    def allows(self, now: int) -> int:
        """Return the most workers that may be recommended where ``now`` are in use."""
        return self.workers if self.is_hard else max(self.workers, now)


def caps(group: RankGroup, estimate: Estimate, policy: Policy, prefetch: int) -> list[Cap]:
    """Return what each limit allows, the tightest first."""
    foot = footprint(group)
    rules: Iterable[Cap | None] = (
        Cap("policy", policy.max_workers, f"policy allows {workers_text(policy.max_workers)}"),
        Cap("batches", estimate.batches, f"an epoch has {estimate.batches} batches"),
        _memory_cap(group, foot, policy, prefetch),
        _shm_cap(group, foot, policy, prefetch),
        _pids_cap(group, policy),
        _files_cap(group, estimate, prefetch),
        _blind_cap(group, estimate),
        _cold_cap(group),
        _shards_cap(group),
    )
    return sorted((c for c in rules if c is not None), key=lambda c: c.workers)


def _memory_cap(group: RankGroup, foot: Footprint, policy: Policy, prefetch: int) -> Cap | None:
    limit = group.pod.budget.memory_bytes
    if limit is None:
        return None
    each = foot.memory_bytes(1, prefetch)
    planned = limit * (1 - policy.memory_margin)
    if each is None or foot.rest_bytes is None:
        return _cap_before_memory_is_known(group, foot, planned, prefetch)
    ours = group.ranks * each * group.epoch.settings.num_workers
    free = grown(ours, planned - foot.rest_bytes, demand_of_memory(group, policy.max_workers))
    fits = max(0, int(free / group.ranks / max(1, each)))
    if _fitted_a_whole_epoch(group, planned) and prefetch <= (group.epoch.settings.prefetch_factor or 2):
        fits = max(fits, group.epoch.settings.num_workers)
    fitting = f"{workers_text(fits)} of {bytes_text(each)}"
    text = f"memory limit {bytes_text(limit)} carries {fitting} beside {bytes_text(foot.rest_bytes)}"
    if not saw_growth(group):
        # Until growth was measured, a worker may grow to all that it shares with the trainer.
        shared = max(each, most_resident(group) + prefetch * (foot.batch_bytes or 0))
        safe = max(_doubled(group), int(free / group.ranks / shared))
        if safe < fits:
            return _growth_cap(safe)
    return Cap("memory", fits, text)


def _fitted_a_whole_epoch(group: RankGroup, planned: float) -> bool:
    """Whether the settings in use fitted for a whole epoch, which counts more than a projection."""
    used = [c.memory_bytes for c in group.epoch.containers if c.memory_bytes is not None]
    return group.epoch.complete and len(used) > 1 and max(used) <= planned


def _cap_before_memory_is_known(group: RankGroup, foot: Footprint, planned: float, prefetch: int) -> Cap:
    """The cap before a worker's own memory was read: each must fit with all that it shares."""
    now = group.epoch.settings.num_workers
    if foot.rest_bytes is None:
        return _growth_cap(_doubled(group))
    free = (planned - foot.rest_bytes) / group.ranks
    worst = max(1, most_resident(group) or foot.rest_bytes) + prefetch * (foot.batch_bytes or 0)
    # Where workers of twice that size fit, no caution is needed.
    most = max(thresholds.FIRST_WORKERS, _doubled(group), int(free / (2 * worst)))
    more = int(free / worst)
    if now == 0 and more == 0 and free >= max(worst / 2, costs.FIRST_WORKER_BYTES):
        # A trainer that fills most of its limit holds more memory than its workers will touch.
        more = 1
    return _growth_cap(min(most, now + max(0, more)))


def _growth_cap(most: int) -> Cap:
    return Cap("growth", most, f"at most {most} workers until their memory growth is known")


def _doubled(group: RankGroup) -> int:
    return max(2, 2 * group.epoch.settings.num_workers)


def _shm_cap(group: RankGroup, foot: Footprint, policy: Policy, prefetch: int) -> Cap | None:
    size = group.pod.budget.shm_bytes
    if size is None:
        return None
    batch = foot.batch_bytes
    if batch is None:
        most = _doubled(group)
        return Cap("growth", most, f"at most {most} workers until the size of a batch is known")
    ours = group.ranks * batch * (group.epoch.settings.queue_batches + costs.HELD_BATCHES)
    free = grown(
        ours,
        size * thresholds.SHM_PLANNED_SHARE - beside_in_shm(group),
        demand_of_shm(group, policy.max_workers),
    )
    fits = max(0, int((free / group.ranks / batch - costs.HELD_BATCHES) / prefetch))
    whose = "1 worker's" if fits == 1 else f"{fits} workers'"
    text = f"/dev/shm of {bytes_text(size)} holds {whose} batches of {bytes_text(batch)}, {prefetch} each"
    return Cap("shm", fits, text)


def _pids_cap(group: RankGroup, policy: Policy) -> Cap | None:
    limit, container = group.pod.budget.pids, group.pod.container
    if limit is None or container is None or container.pids is None:
        return None
    free = limit * thresholds.PIDS_PLANNED_SHARE - container.pids
    more = demand_of_pids(group, policy.max_workers).of(free / costs.PIDS_PER_WORKER) / group.ranks
    fits = max(0, group.epoch.settings.num_workers + int(more))
    return Cap("pids", fits, f"pids.max {limit} allows {workers_text(fits)}")


def _files_cap(group: RankGroup, estimate: Estimate, prefetch: int) -> Cap | None:
    limit = group.pod.budget.open_files
    if limit is None:
        return None
    tensors = max((load.batch_tensors for load in group.epoch.loads), default=1) or 1
    fits = max(1, int((limit - costs.FILES_OF_TRAINER) / (costs.FILES_PER_WORKER + prefetch * tensors)))
    return Cap("files", fits, f"{limit} open files allow {workers_text(fits)}")


def _blind_cap(group: RankGroup, estimate: Estimate) -> Cap | None:
    """The cap on concurrent loads while storage may have a ceiling above those that were seen."""
    if estimate.blocked_seconds < thresholds.BLOCKED_LOAD_SHARE * estimate.load_seconds:
        return None
    if group.slowest.shards is not None and not group.slowest.can_apply:
        # Its count changes only between runs: recommend the right one at once, not after several restarts.
        return None
    seen = max(1, *(e.settings.num_workers for x in group.loaders for e in x.epochs))
    if thresholds.MAX_CONCURRENCY_FACTOR * seen < thresholds.FREE_CONCURRENCY:
        return Cap(
            "blind",
            thresholds.FREE_CONCURRENCY,
            f"{thresholds.FREE_CONCURRENCY} concurrent loads until storage is known better",
        )
    return Cap(
        "blind",
        thresholds.MAX_CONCURRENCY_FACTOR * seen,
        f"{thresholds.MAX_CONCURRENCY_FACTOR} times the {seen} concurrent loads seen so far",
    )


def _cold_cap(group: RankGroup) -> Cap | None:
    """The cap while loads are slower than they will be with a filled page cache."""
    if not is_provisional(group):
        return None
    most = _doubled(group)
    return Cap("cold", most, f"at most {most} workers until the page cache is filled")


def _shards_cap(group: RankGroup) -> Cap | None:
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
    """Whether workers get nearly equal numbers of shards, so that most of them do not wait for a few.

    Example: 8 shards to 6 workers are 2 to two of them, which takes as long as with 4: 2 x 6 / 8 is 1.5.
    """
    if shards is None or workers == 0:
        return True
    return math.ceil(shards / workers) * workers < thresholds.MAX_SHARD_IMBALANCE * shards


def tightest(found: Sequence[Cap], now: int) -> Cap:
    """Return the cap that binds where ``now`` workers are in use: the one that allows the fewest."""
    return min(found, key=lambda c: (c.allows(now), c.workers))
