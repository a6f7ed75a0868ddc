"""The expensive part of a recommendation: fit an epoch, and simulate the settings around those in use.

It may be made while the epoch still runs, so that little is left to do at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedwater_service.model.choose.choose import choose, smallest_as_good
from feedwater_service.model.choose.limits import caps, shares_evenly, tightest
from feedwater_service.model.choose.prefetch import Selection, other_depth
from feedwater_service.model.choose.what_if import NO_LIMIT_SWEEP, LimitSweep, SweepInput, explore
from feedwater_service.model.explain.counterfactuals import Counterfactuals, counterfactuals
from feedwater_service.model.fit.calibrate import with_gil_switches
from feedwater_service.model.fit.colocation import (
    colocation_of,
    concurrent_loaders,
    is_synchronised,
    machine_left,
    machine_share,
    own_steps_of_all,
    with_colocation,
)
from feedwater_service.model.fit.contention import beside_others
from feedwater_service.model.fit.device import with_device, with_pin_thread, with_workload
from feedwater_service.model.fit.estimate import Estimate, epoch_with_workers, estimate, with_workers_known
from feedwater_service.model.fit.storage import ceiling_within, find_ceiling
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.observed.pooling import known_batches
from feedwater_service.model.predict.bounds import PredictionContext, earlier_epochs
from feedwater_service.model.predict.curve import Point, counts_up_to, curve, point, with_workers
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.workload import NOT_SHARED, Colocation
from feedwater_service.model.types import Budget, Epoch, GroupKey, Loader, LoaderSettings, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysedEpoch:
    """The epoch that an analysis was made from, as far as it was known then."""

    loader: GroupKey
    rank: int
    """The rank that decided."""
    ranks: tuple[int, ...]
    """Ranks of which batches were known."""
    number: int
    batches: int
    """Measured so far."""
    settings: LoaderSettings
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """The expensive part of a recommendation: an epoch fitted, and the settings around it simulated."""

    epoch: AnalysedEpoch
    context: PredictionContext
    machine_left: Machine
    """The rank's part of the machine without what its other loaders use: the closed bounds use it."""
    points: tuple[Point, ...]
    """As simulated, without correction by measurements."""
    counterfactuals: tuple[Counterfactuals, ...]
    """At the settings in use, and at those that are best without limits."""
    tried: Mapping[LoaderSettings, Point] = field(default_factory=dict)
    """Points of other prefetch factors that were simulated."""
    limit_sweep: LimitSweep = NO_LIMIT_SWEEP

    def is_current_for(self, group: RankGroup) -> bool:
        """Whether it was made from the group's last epoch, and from enough of it on every rank."""
        seen, epoch = self.epoch, group.epoch
        estimate = self.context.estimate
        return (
            seen.loader == group.slowest.group
            and seen.ranks == group.known_ranks
            and group.may_be_decided_by(seen.rank)
            and seen.number == epoch.number
            and seen.settings == epoch.settings
            and seen.budget == group.pod.budget
            and seen.batches >= floors.MIN_DRAFT_SHARE * max(len(epoch.waits), epoch.batches)
            # Start-up weighs more in a short epoch: one that is taken for half as long is misjudged.
            and estimate.batches >= 0.9 * epoch.batches
            # Last, as it compares the stamps of whole epochs.
            and estimate.work.colocation.synchronised == is_synchronised(group)
        )

    def with_whole_epoch(self, epoch: Epoch) -> Analysis:
        """Return the analysis with the statistics of the whole epoch."""
        estimate = replace(self.context.estimate, measured=summarise(epoch))
        return replace(self, context=replace(self.context, estimate=estimate))

    def counterfactuals_at(self, settings: LoaderSettings, policy: Policy) -> Counterfactuals:
        """Return the counterfactuals at settings; simulated now if these were not among the likely ones."""
        known = next((c for c in self.counterfactuals if c.settings == settings), None)
        if known is not None:
            return known
        context = self.context
        return counterfactuals(
            context.estimate, settings, context.machine, context.ceiling, policy.max_workers
        )


def analyse_group(group: RankGroup, policy: Policy) -> Analysis:
    """Fit the group's last epoch as far as it is known, and simulate the settings around those in use."""
    epoch, current = group.pool, group.pool.settings
    fitted, machine, left = _fit_group(group)
    ceiling = find_ceiling(group.recent.epochs) or ceiling_within(epoch)
    points = curve(fitted, _counts(group, policy, fitted, left), current, machine, ceiling)
    in_use = next(p for p in points if p.settings.num_workers == current.num_workers)
    analysis = Analysis(
        epoch=_analysed_epoch(group),
        context=PredictionContext(
            estimate=fitted,
            machine=machine,
            observed=replace(in_use, settings=current),
            ceiling=ceiling,
            earlier=earlier_epochs(group.recent.epochs, epoch, fitted, machine, ceiling),
        ),
        machine_left=left,
        points=points,
        counterfactuals=tuple(
            counterfactuals(fitted, at, machine, ceiling, policy.max_workers)
            for at in _likely_settings(points, current)
        ),
    )
    return _with_lookahead(group, analysis, policy)


def _fit_group(group: RankGroup) -> tuple[Estimate, Machine, Machine]:
    """The fitted quantities, the rank's part of the machine, and what its other loaders leave of that."""
    loader, epoch = group.slowest, group.pool
    others = concurrent_loaders(group, group.epoch)
    colocation = colocation_of(group, others)
    steps = own_steps_of_all(group, epoch)
    fitted, machine = fit_epoch(loader, epoch, machine_share(group), steps, colocation)
    with_workers_before = epoch_with_workers(group.recent.epochs, epoch)
    if with_workers_before is not None:
        before, _ = fit_epoch(loader, with_workers_before, machine_share(group), None, colocation)
        fitted = with_workers_known(fitted, before)
    return fitted, machine, replace(machine_left(group, others), obtainable=machine.obtainable)


def _analysed_epoch(group: RankGroup) -> AnalysedEpoch:
    return AnalysedEpoch(
        loader=group.slowest.group,
        rank=group.slowest.rank,
        ranks=group.known_ranks,
        number=group.pool.number,
        batches=known_batches(group.pool),
        settings=group.pool.settings,
        budget=group.pod.budget,
    )


def _counts(group: RankGroup, policy: Policy, fitted: Estimate, left: Machine) -> list[int]:
    """The counts of workers to simulate: the grid up to a limit, with those that were or may be in use."""
    current = group.pool.settings.num_workers
    also = [current, policy.min_workers, *(c.before.num_workers for c in group.recent.changes[-1:])]
    seen = max(1, *(e.settings.num_workers for e in group.slowest.epochs))
    limit = min(max(policy.max_workers, current), thresholds.MAX_CONCURRENCY_FACTOR * seen * 4)
    return counts_up_to(limit, also, fitted, left)


def fit_epoch(
    loader: Loader,
    epoch: Epoch,
    machine: Machine,
    step_floor: Sequence[float] | None = None,
    colocation: Colocation = NOT_SHARED,
) -> tuple[Estimate, Machine]:
    """Return the fitted quantities of an epoch, and the machine that it ran on.

    Args:
        loader: Whose epoch it is.
        epoch: With two batches or more.
        machine: The rank's part of it, were there no other containers.
        step_floor: Shape (batches,), seconds: the rank's steps without its waits for other ranks.
        colocation: What shared the machine.
    """
    fitted = estimate(loader, epoch, step_floor)
    work = with_colocation(
        with_device(with_pin_thread(fitted.work, loader, epoch), epoch, step_floor), colocation
    )
    stretch = 1 / (1 - fitted.run_delay_share)
    machine, work = beside_others(machine, work, epoch, stretch, fitted.step_delay_seconds)
    return with_workload(fitted, with_gil_switches(work, epoch, machine)), machine


def select_count(group: RankGroup, analysis: Analysis, policy: Policy) -> Selection:
    """Choose a count of workers; `prefetch.other_depth` chooses the depth of the queue from it."""
    context = analysis.context
    current = context.corrected(context.observed)
    now = current.settings.num_workers
    limits = caps(group, context.estimate, policy, current.settings.prefetch_factor or 2)
    most = tightest(limits, now).allows(now)
    points = tuple(
        current if p.settings.num_workers == now else context.corrected(p)
        for p in _points_with(analysis, most)
    )
    shards = None if group.slowest.map_style else group.slowest.shards
    even = tuple(p for p in points if p is current or shares_evenly(p.settings.num_workers, shards))
    # A simulation that does not reproduce the epoch is no reason to change settings that fit.
    offered = (current,) if now <= most and not context.reproduces_epoch else even
    return Selection(
        group=group,
        policy=policy,
        context=context,
        current=current,
        points=points,
        choice=choose(offered, limits, current, group.recent, policy),
        tried=dict(analysis.tried),
    )


def _with_lookahead(group: RankGroup, analysis: Analysis, policy: Policy) -> Analysis:
    """The analysis with the simulations that its own choice needs: other depths, other CPU limits."""
    selection, context = select_count(group, analysis, policy), analysis.context
    deeper = other_depth(selection) if context.reproduces_epoch else None
    best = (deeper or selection.choice.chosen).settings
    limits, now = caps(group, context.estimate, policy, best.prefetch_factor or 2), context.workers
    question = SweepInput(
        context.estimate,
        best,
        group.pod.budget,
        group.ranks,
        context.ceiling,
        tightest(limits, now).allows(now),
        context.machine.obtainable,
    )
    known = (*analysis.points, *selection.tried.values())
    plain = next((p for p in known if p.settings == best), None)
    plain = plain or point(context.estimate, best, context.machine, context.ceiling)
    return replace(analysis, tried=selection.tried, limit_sweep=explore(question, plain))


def _likely_settings(points: Sequence[Point], current: LoaderSettings) -> list[LoaderSettings]:
    """The settings in use and those that are most likely to be recommended."""
    best = smallest_as_good(points).settings
    return [current] if best.num_workers == current.num_workers else [current, best]


def _points_with(analysis: Analysis, most: int) -> tuple[Point, ...]:
    """The curve with the point of the most workers that are allowed, where it lies between two others."""
    counts = {p.settings.num_workers for p in analysis.points}
    if most in counts or most > max(counts):
        return analysis.points
    context = analysis.context
    settings = with_workers(analysis.epoch.settings, most)
    extra = point(context.estimate, settings, context.machine, context.ceiling)
    return tuple(sorted((*analysis.points, extra), key=lambda p: p.settings.num_workers))
