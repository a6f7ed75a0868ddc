"""The ranks of one loader, looked at together: they change together, so they are decided together."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.bucket import Machine, machine_of
from feedwater_service.model.figures import summarise
from feedwater_service.model.values import Epoch, Loader, Pod


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

    @property
    def epoch(self) -> Epoch:
        """The epoch that just ended (or runs) of the rank that decides."""
        return self.slowest.epochs[-1]

    @property
    def ranks(self) -> int:
        """How many ranks share the pod."""
        return len(self.loaders)


def group_of(pod: Pod, name: str) -> Group | None:
    """Return the ranks of loader ``name``; None if none of them has an epoch yet."""
    ours = sorted((x for x in pod.loaders if x.name == name and x.epochs), key=lambda x: x.rank)
    if not ours:
        return None
    others = tuple(x for x in pod.loaders if x.name != name and x.epochs)
    return Group(pod, tuple(ours), others, max(ours, key=_mean_load))


def machine_for(group: Group) -> Machine:
    """Return what one rank of the group has to run on, beside the other ranks and loaders that are active."""
    whole = machine_of(group.pod.budget)
    epoch = group.epoch
    beside = sum(_cores_used(x, epoch) for x in group.others)
    if group.ranks == 1 and beside == 0.0:
        return whole
    return whole.share(1 / group.ranks, beside / group.ranks)


def own_steps(group: Group) -> list[float] | None:
    """Return the steps of the deciding rank without its waiting for slower ones; None where it is alone.

    With DDP a rank that is done waits for the others inside its step, so the smallest step of an iteration
    is the nearest to the work itself.
    """
    if group.ranks == 1:
        return None
    number = group.epoch.number
    rows = [x.epochs[-1].steps for x in group.loaders if x.epochs[-1].number == number]
    count = min(len(row) for row in rows)
    if len(rows) < 2 or count == 0:
        return None
    return [min(row[i] for row in rows) for i in range(count)]


def straggler(group: Group) -> Loader | None:
    """Return the rank that holds the others up: it alone waits for data, and its loads are slower."""
    if group.ranks < 2:
        return None
    slow = group.slowest
    rest = [x for x in group.loaders if x is not slow]
    usual = fmean(_mean_load(x) for x in rest)
    waits = summarise(slow.epochs[-1]).starvation
    others = max(summarise(x.epochs[-1]).starvation for x in rest)
    # Half as slow again and waiting twice as much: beyond what sharing a pod's CPUs unevenly brings about.
    return slow if usual > 0 and _mean_load(slow) > 1.5 * usual and waits > max(0.1, 2 * others) else None


def _mean_load(loader: Loader) -> float:
    epoch = loader.epochs[-1]
    if epoch.loads:
        return fmean(load.blocked_seconds + load.cpu_seconds for load in epoch.loads)
    return fmean(epoch.waits) if epoch.waits else 0.0


def _cores_used(loader: Loader, beside: Epoch) -> float:
    """Cores that another loader's workers used while an epoch ran."""
    first, last = beside.start, beside.start + _duration(beside)
    if last <= first:
        return 0.0
    used = 0.0
    for epoch in loader.epochs:
        used += sum(x.cpu_seconds for x in epoch.loads if first <= x.start < last)
    return used / (last - first)


def _duration(epoch: Epoch) -> float:
    return epoch.iter_seconds + sum(epoch.waits) + sum(epoch.steps)
