"""The expensive part of a recommendation, made while the epoch still runs: fit, simulate, look ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedwater_service.model.choose.choose import choose, smallest_as_good
from feedwater_service.model.choose.limits import caps, shares_evenly, tightest
from feedwater_service.model.choose.prefetch import Depths, other_depth
from feedwater_service.model.choose.what_if import NO_LIMIT_SWEEP, LimitSweep, Question, explore
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
from feedwater_service.model.fit.device import pinned, two_stage, with_work
from feedwater_service.model.fit.estimate import Estimate, epoch_with_workers, estimate, with_workers_known
from feedwater_service.model.fit.storage import ThroughputCeiling, ceiling_within, find_ceiling
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.observed.group import Group
from feedwater_service.model.observed.pooling import known_batches
from feedwater_service.model.predict.bounds import Grounds, Past, look_back
from feedwater_service.model.predict.curve import Point, counts_up_to, curve, point, with_workers
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.workload import NOT_SHARED, Colocation
from feedwater_service.model.types import Budget, Epoch, Loader, Policy, Settings


@dataclass(frozen=True, slots=True)
class Draft:
    """The expensive part of a recommendation, made while the epoch runs."""

    name: str
    rank: int
    """The one that decided."""
    ranks: tuple[int, ...]
    """Those that were known."""
    epoch: int
    batches: int
    """Measured so far."""
    settings: Settings
    budget: Budget
    estimate: Estimate
    machine: Machine
    """The rank's part of it: what is simulated."""
    left: Machine
    """Of it, what is left beside the rank's other loaders: what closed bounds go by."""
    ceiling: ThroughputCeiling | None
    past: Past
    points: tuple[Point, ...]
    """As simulated; what was measured is not in them."""
    counterfactuals: tuple[Counterfactuals, ...]
    """At the settings in use, and at those that are best without limits."""
    tried: Mapping[Settings, Point] = field(default_factory=dict)
    """Other depths of the queue, as far as they were simulated."""
    limit_sweep: LimitSweep = NO_LIMIT_SWEEP
    """Under other CPU limits."""

    @property
    def grounds(self) -> Grounds:
        """What predictions rest on."""
        found = next(p for p in self.points if p.settings.num_workers == self.settings.num_workers)
        observed = replace(found, settings=self.settings)
        return Grounds(self.estimate, self.machine, observed, self.ceiling, self.past)

    @property
    def explains(self) -> bool:
        """The simulation comes near what was measured at the settings in use."""
        grounds = self.grounds
        measured = grounds.estimate.measured.batches_per_second
        simulated = grounds.observed.outcome.batches_per_second
        return measured > 0 and 1 / floors.MAX_MISFIT < simulated / measured < floors.MAX_MISFIT

    def stands_for(self, group: Group) -> bool:
        """Whether it is of the group's last epoch, and has seen enough of it, and of every rank."""
        epoch = group.epoch
        return (
            self.name == group.slowest.name
            and self.ranks == group.known
            and group.may_be_decided_by(self.rank)
            and self.epoch == epoch.number
            and self.settings == epoch.settings
            and self.budget == group.pod.budget
            and self.batches >= floors.MIN_DRAFT_SHARE * max(len(epoch.waits), epoch.batches)
            # Start-up weighs more in a short epoch: one that is taken for half as long is misjudged.
            and self.estimate.batches >= 0.9 * epoch.batches
            # Last, as it compares the stamps of whole epochs.
            and self.estimate.work.colocation.synchronised == is_synchronised(group)
        )

    def of_the_whole(self, epoch: Epoch) -> Draft:
        """Return it with the figures of the whole epoch."""
        return replace(self, estimate=replace(self.estimate, measured=summarise(epoch)))

    def counterfactuals_at(self, settings: Settings, policy: Policy) -> Counterfactuals:
        """Return what each cause costs at settings; looked for now if they were not among the likely ones."""
        known = next((c for c in self.counterfactuals if c.settings == settings), None)
        return known or counterfactuals(
            self.estimate, settings, self.machine, self.ceiling, policy.max_workers
        )


def make_draft(group: Group, policy: Policy) -> Draft:
    """Fit and simulate what the group's last epoch says so far."""
    loader, lately, epoch = group.slowest, group.lately, group.pool
    others = concurrent_loaders(group, group.epoch)
    machine, left = machine_share(group), machine_left(group, others)
    colocation = colocation_of(group, others)
    fitted, machine = fitted_to(loader, epoch, machine, own_steps_of_all(group, epoch), colocation)
    left = replace(left, obtainable=machine.obtainable)
    workers_seen = epoch_with_workers(lately.epochs, epoch)
    if workers_seen is not None:
        before, _ = fitted_to(loader, workers_seen, machine_share(group), None, colocation)
        fitted = with_workers_known(fitted, before)
    ceiling = find_ceiling(lately.epochs) or ceiling_within(epoch)
    current = epoch.settings
    also = [current.num_workers, policy.min_workers, *(c.before.num_workers for c in lately.changes[-1:])]
    limit = max(policy.max_workers, current.num_workers)
    limit = min(
        limit,
        thresholds.MAX_CONCURRENCY_FACTOR * max(1, *(e.settings.num_workers for e in loader.epochs)) * 4,
    )
    counts = counts_up_to(limit, also, fitted, left)
    points = curve(fitted, counts, current, machine, ceiling)
    made = Draft(
        loader.name,
        loader.rank,
        group.known,
        epoch.number,
        known_batches(epoch),
        current,
        group.pod.budget,
        fitted,
        machine,
        left,
        ceiling,
        look_back(lately.epochs, epoch, fitted, machine, ceiling),
        points,
        tuple(
            counterfactuals(fitted, at, machine, ceiling, policy.max_workers)
            for at in _looked_at(points, current)
        ),
    )
    return _looking_ahead(group, made, policy)


def fitted_to(
    loader: Loader,
    epoch: Epoch,
    machine: Machine,
    step_floor: Sequence[float] | None = None,
    colocation: Colocation = NOT_SHARED,
) -> tuple[Estimate, Machine]:
    """Return the fitted quantities of an epoch, calibrated on the machine that it ran on, and that machine.

    Args:
        loader: Whose epoch it is.
        epoch: With two batches or more.
        machine: The rank's part of it, were there no other containers.
        step_floor: Shape (batches,), seconds: the rank's steps without its waiting for others.
        colocation: Who else ran.
    """
    fitted = estimate(loader, epoch, step_floor)
    work = with_colocation(two_stage(pinned(fitted.work, loader, epoch), epoch, step_floor), colocation)
    stretch = 1 / (1 - fitted.run_delay_share)
    machine, work = beside_others(machine, work, epoch, stretch, fitted.step_delay_seconds)
    return with_work(fitted, with_gil_switches(work, epoch, machine)), machine


def choosing(group: Group, made: Draft, policy: Policy) -> Depths:
    """Choose a count, from which the choice of a depth is made."""
    grounds = made.grounds
    current = grounds.corrected(grounds.observed)
    now = current.settings.num_workers
    limits = caps(group, made.estimate, policy, current.settings.prefetch_factor or 2)
    most = tightest(limits, now).allows(now)
    points = tuple(
        current if p.settings.num_workers == now else grounds.corrected(p) for p in _with_top(made, most)
    )
    fits = now <= most
    shards = None if group.slowest.map_style else group.slowest.shards
    even = tuple(p for p in points if p is current or shares_evenly(p.settings.num_workers, shards))
    offered = (current,) if fits and not made.explains else even
    choice = choose(offered, limits, current, group.lately, policy)
    return Depths(group, grounds, choice, policy, points, dict(made.tried))


def _looking_ahead(group: Group, made: Draft, policy: Policy) -> Draft:
    """The draft with what the choice will most likely ask for: other depths, other CPU limits."""
    chosen = choosing(group, made, policy)
    deeper = other_depth(chosen) if made.explains else None
    best = (deeper or chosen.choice.chosen).settings
    limits, now = caps(group, made.estimate, policy, best.prefetch_factor or 2), made.settings.num_workers
    most = tightest(limits, now).allows(now)
    asked = Question(
        made.estimate, best, made.budget, group.ranks, made.ceiling, most, made.machine.obtainable
    )
    known = (*made.points, *chosen.tried.values())
    plain = next((p for p in known if p.settings == best), None)
    plain = plain or point(made.estimate, best, made.machine, made.ceiling)
    return replace(made, tried=chosen.tried, limit_sweep=explore(asked, plain))


def _looked_at(points: Sequence[Point], current: Settings) -> list[Settings]:
    """The settings that are most likely to be recommended: causes are looked for there beforehand."""
    best = smallest_as_good(points).settings
    return [current] if best.num_workers == current.num_workers else [current, best]


def _with_top(made: Draft, most: int) -> tuple[Point, ...]:
    """The curve with the most workers that are allowed among its counts, where they lie between two."""
    counts = {p.settings.num_workers for p in made.points}
    if most in counts or most > max(counts):
        return made.points
    extra = point(made.estimate, with_workers(made.settings, most), made.machine, made.ceiling)
    return tuple(sorted((*made.points, extra), key=lambda p: p.settings.num_workers))
