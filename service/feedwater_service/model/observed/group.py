"""The ranks of one loader, looked at together: they change together, so they are decided together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.observed.history import recent
from feedwater_service.model.observed.pooling import pool_of, telling
from feedwater_service.model.types import Epoch, Loader, Pod


@dataclass(frozen=True, slots=True)
class Group:
    """All ranks of one loader, and what else runs in their pod."""

    pod: Pod
    loaders: tuple[Loader, ...]
    """By rank; not empty, and each with an epoch."""
    others: tuple[Loader, ...]
    """The pod's loaders of other names."""
    slowest: Loader
    """The rank that decides: the one whose loads take longest holds all up."""
    lately: Loader
    """The same, with the history that still counts (`history.recent`)."""
    pool: Epoch
    """`epoch`; where it is short, joined with those before it: what is judged by."""
    number: int
    """Of the newest epoch, however few batches of it were measured."""

    @property
    def epoch(self) -> Epoch:
        """The epoch that just ended (or runs) of the rank that decides."""
        return self.slowest.epochs[-1]

    @property
    def ranks(self) -> int:
        """How many ranks share the pod."""
        return len(self.loaders)

    @property
    def known(self) -> tuple[int, ...]:
        """The ranks of which batches of that epoch are known."""
        newest = ((x.rank, x.epochs[-1]) for x in self.loaders)
        return tuple(rank for rank, epoch in newest if epoch.number == self.epoch.number and epoch.waits)

    def may_be_decided_by(self, rank: int) -> bool:
        """Whether a rank's loads take as long as those of the slowest, but for chance."""
        least = (1 - floors.EQUAL_RANKS_TOLERANCE) * _mean_load(self.slowest)
        return any(x.rank == rank and _mean_load(x) >= least for x in self.loaders)


def group_of(pod: Pod, name: str, least: int = floors.MIN_EPOCH_BATCHES) -> Group | None:
    """Return the ranks of loader ``name``; None if none of them has an epoch yet.

    Args:
        pod: All loaders and ranks that share the budget.
        name: The loader's.
        least: Batches that a judgement takes.
    """
    ours = sorted((x for x in pod.loaders if x.name == name and x.epochs), key=lambda x: x.rank)
    if not ours:
        return None
    number = max(x.epochs[-1].number for x in ours)
    ours = [replace(x, epochs=telling(x.epochs, least)) for x in ours]
    others = tuple(
        replace(x, epochs=telling(x.epochs, floors.MIN_EPOCH_BATCHES))
        for x in pod.loaders
        if x.name != name and x.epochs
    )
    slowest = max(ours, key=_mean_load)
    lately = recent(slowest, pod.budget)
    return Group(pod, tuple(ours), others, slowest, lately, pool_of(lately.epochs, least), number)


def straggler(group: Group) -> Loader | None:
    """Return the rank that holds the others up: it alone waits for data, and its loads are slower."""
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
