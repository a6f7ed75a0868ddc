"""What shares the machine with a loader: the other ranks, and the rank's other loaders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from feedwater_service.model.fit.estimate import estimate, stratified
from feedwater_service.model.numbers import floors, grids
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.observed.pooling import joined_steps
from feedwater_service.model.observed.timeline import (
    ConcurrentLoader,
    are_in_step,
    concurrent_loader,
    is_whole,
)
from feedwater_service.model.simulator.cpu import Machine, machine_of
from feedwater_service.model.simulator.simulate import window_of
from feedwater_service.model.simulator.workload import (
    BackgroundLoad,
    Colocation,
    Peer,
    Workload,
    ZippedLoader,
)
from feedwater_service.model.types import Epoch, Loader


def machine_share(group: RankGroup) -> Machine:
    """Return a rank's even part of the pod's machine."""
    whole = machine_of(group.pod.budget)
    return whole if group.ranks == 1 else whole.share(1 / group.ranks)


def machine_left(group: RankGroup, others: Sequence[ConcurrentLoader]) -> Machine:
    """Return the part of a rank's machine that its other loaders leave: the closed bounds use it."""
    used = sum(x.cores for x in others)
    whole = machine_of(group.pod.budget)
    return whole if group.ranks == 1 and used == 0 else whole.share(1 / group.ranks, used)


def concurrent_loaders(group: RankGroup, epoch: Epoch) -> tuple[ConcurrentLoader, ...]:
    """Return what ran during one of its epochs: the deciding rank's other loaders, and other jobs'."""
    ours = group.slowest
    found = (
        concurrent_loader(epoch, x, same_loop=x.group[:2] == ours.group[:2])
        for x in group.others
        if x.rank == ours.rank
    )
    return tuple(x for x in found if x is not None)


def colocation_of(group: RankGroup, others: Sequence[ConcurrentLoader]) -> Colocation:
    """Return what is simulated beside the deciding rank's loader."""
    return Colocation(
        _peers(group),
        is_synchronised(group),
        tuple(_zipped(x) for x in others if x.is_zipped),
        tuple(_background(x) for x in others if not x.is_zipped and x.cores > 0),
    )


def with_colocation(work: Workload, colocation: Colocation) -> Workload:
    """Return the work with its colocation, and as many of its samples as are simulated for each rank."""
    if not colocation.peers:
        return replace(work, colocation=colocation)
    count = window_of(1 + len(colocation.peers))
    return replace(
        work,
        loads=tuple(stratified(work.loads, count)),
        steps=tuple(stratified(work.steps, count)),
        colocation=colocation,
    )


def is_synchronised(group: RankGroup) -> bool:
    """Whether the ranks wait for each other in each step, as under DDP."""
    others = (x for x in group.loaders if x is not group.slowest)
    epochs = [e for x in others for e in x.epochs if e.number == group.epoch.number]
    return len(epochs) == group.ranks - 1 > 0 and all(are_in_step(group.epoch, e) for e in epochs)


def own_steps(group: RankGroup, epoch: Epoch, others: Sequence[ConcurrentLoader]) -> list[float] | None:
    """Return the deciding rank's steps without waits for other ranks and loaders; None if there are none.

    With DDP a rank that is done waits for the others inside its step, so the smallest step of an iteration is
    the nearest to the work itself. Where one loop takes two loaders' batches in turn, the wait for one is in
    the step of the other.
    """
    rows = _rows(group, epoch)
    zipped = [x.waits_in_steps for x in others if x.is_zipped and len(x.waits_in_steps) == len(epoch.steps)]
    if len(rows) < 2 and not zipped:
        return None
    steps = [min(row) for row in zip(*rows, strict=False)]
    for waits in zipped:
        steps = [max(0.0, s - w) for s, w in zip(steps, waits, strict=False)]
    return steps or None


def own_steps_of_all(group: RankGroup, epoch: Epoch) -> list[float] | None:
    """Return `own_steps` of an epoch, or of several that were joined."""
    parts = epoch.parts or (epoch,)
    found = [own_steps(group, part, concurrent_loaders(group, part)) for part in parts]
    if all(steps is None for steps in found):
        return None
    return joined_steps([list(p.steps) if s is None else s for p, s in zip(parts, found, strict=True)])


def _rows(group: RankGroup, epoch: Epoch) -> list[Sequence[float]]:
    """The steps of one epoch on each rank that keeps in step with the deciding one, that one first."""
    rows: list[Sequence[float]] = [epoch.steps]
    for loader in group.loaders:
        same = next((e for e in loader.epochs if e.number == epoch.number), None)
        if loader is group.slowest or same is None or not is_whole(same):
            continue
        if are_in_step(epoch, same):
            rows.append(same.steps)
    return rows


def _peers(group: RankGroup) -> tuple[Peer, ...]:
    """The other ranks, or a few of them from the quickest to the slowest."""
    others = sorted((x for x in group.loaders if x is not group.slowest), key=lambda x: sum(_means(x)))
    count = min(len(others), grids.MAX_RANKS - 1)
    chosen = [others[(2 * i + 1) * len(others) // (2 * count)] for i in range(count)]
    return tuple(_peer(x, group.slowest, (i + 1) / (count + 1)) for i, x in enumerate(chosen))


def _peer(loader: Loader, slowest: Loader, shift: float) -> Peer:
    ours, theirs = _means(slowest), _means(loader)
    whole, other = sum(ours), sum(theirs)
    if whole <= 0 or other <= 0 or abs(other / whole - 1) < floors.EQUAL_RANKS_TOLERANCE:
        return Peer(shift=shift)
    blocked, cpu = (b / a if a > 0 else 1.0 for a, b in zip(ours, theirs, strict=True))
    return Peer(blocked, cpu, shift)


def _means(loader: Loader) -> tuple[float, float]:
    """Mean blocked and CPU seconds of a rank's loads in its last epoch; 0 where they are not known."""
    loads = loader.epochs[-1].loads
    if not loads:
        return 0.0, 0.0
    return fmean(x.blocked_seconds for x in loads), fmean(x.cpu_seconds for x in loads)


def _zipped(other: ConcurrentLoader) -> ZippedLoader:
    work = estimate(other.loader, other.epoch).work
    return ZippedLoader(work, other.epoch.settings, other.per_batch)


def _background(other: ConcurrentLoader) -> BackgroundLoad:
    loads = other.epoch.loads
    return BackgroundLoad(other.cores, fmean(x.cpu_seconds for x in loads) if loads else 0.0)
