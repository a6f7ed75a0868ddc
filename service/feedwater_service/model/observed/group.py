"""The ranks of one loader, which get one decision together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.observed.history import recent_history
from feedwater_service.model.observed.pooling import informative_epochs, pooled
from feedwater_service.model.types import Epoch, GroupKey, Loader, Pod


@dataclass(frozen=True, slots=True)
class RankGroup:
    """All ranks of one loader, and what else runs in their pod."""

    pod: Pod
    loaders: tuple[Loader, ...]
    """By rank; not empty, and each with an epoch."""
    others: tuple[Loader, ...]
    """The pod's loaders of other names, and of other jobs."""
    slowest: Loader
    """The rank that decides: the one whose loads take longest, for which all others wait."""
    recent: Loader
    """`slowest` with the epochs and changes of the present workload and budget (`history.recent_history`)."""
    pool: Epoch
    """`epoch`, joined with earlier short ones where it is short: recommendations are made from it."""
    number: int
    """Number of the newest epoch, even if few of its batches were measured."""

    @property
    def epoch(self) -> Epoch:
        """The deciding rank's last epoch, ended or running."""
        return self.slowest.epochs[-1]

    @property
    def ranks(self) -> int:
        """How many ranks share the pod."""
        return len(self.loaders)

    @property
    def known_ranks(self) -> tuple[int, ...]:
        """Ranks of which batches of the last epoch are known."""
        newest = ((x.rank, x.epochs[-1]) for x in self.loaders)
        return tuple(rank for rank, epoch in newest if epoch.number == self.epoch.number and epoch.waits)

    def may_be_decided_by(self, rank: int) -> bool:
        """Whether a rank's loads take as long as the slowest rank's, within the tolerance of equal ranks."""
        least = (1 - floors.EQUAL_RANKS_TOLERANCE) * _mean_load(self.slowest)
        return any(x.rank == rank and _mean_load(x) >= least for x in self.loaders)


def key_of(loader: GroupKey | str) -> GroupKey:
    """Return a group's key; a name alone is a loader of which no job is known."""
    return ("", "", loader) if isinstance(loader, str) else loader


def group_of(pod: Pod, loader: GroupKey | str, least: int = floors.MIN_EPOCH_BATCHES) -> RankGroup | None:
    """Return the ranks of a loader; None if none of them has an epoch yet.

    Args:
        pod: All loaders and ranks that share the budget.
        loader: The group's key, or the name where no job is known. Default names (``loader-0``) are the same
            in every script: by name alone a trainer and an evaluator of one pod were ranks of one loader.
        least: Batches that a judgement takes.
    """
    key = key_of(loader)
    ours = sorted((x for x in pod.loaders if x.group == key and x.epochs), key=lambda x: x.rank)
    if not ours:
        return None
    number = max(x.epochs[-1].number for x in ours)
    ours = [replace(x, epochs=informative_epochs(x.epochs, least)) for x in ours]
    others = tuple(
        replace(x, epochs=informative_epochs(x.epochs, floors.MIN_EPOCH_BATCHES))
        for x in pod.loaders
        if x.group != key and x.epochs
    )
    slowest = max(ours, key=_mean_load)
    recent = recent_history(slowest, pod.budget)
    return RankGroup(pod, tuple(ours), others, slowest, recent, pooled(recent.epochs, least), number)


def straggler(group: RankGroup) -> Loader | None:
    """Return the rank that the others wait for: it alone waits for data, and its loads are slower."""
    if group.ranks < 2:
        return None
    slow = group.slowest
    rest = [x for x in group.loaders if x is not slow]
    usual = fmean(_mean_load(x) for x in rest)
    waits = summarise(slow.epochs[-1]).starvation
    others = max(summarise(x.epochs[-1]).starvation for x in rest)
    is_slower = usual > 0 and _mean_load(slow) > floors.STRAGGLER_LOAD_FACTOR * usual
    waits_more = waits > max(floors.STRAGGLER_MIN_STARVATION, floors.STRAGGLER_WAIT_FACTOR * others)
    return slow if is_slower and waits_more else None


def _mean_load(loader: Loader) -> float:
    epoch = loader.epochs[-1]
    if epoch.loads:
        return fmean(load.own_seconds for load in epoch.loads)
    return fmean(epoch.waits) if epoch.waits else 0.0
