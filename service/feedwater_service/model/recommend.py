"""The stages in order: from a pod's samples to a recommendation, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from feedwater_service.model.advise import advice
from feedwater_service.model.bounds import Grounds, Past, look_back, predict
from feedwater_service.model.bucket import Machine
from feedwater_service.model.calibrate import with_turns
from feedwater_service.model.capacity import BLIND, Cap, caps, footprint
from feedwater_service.model.causes import Causes, causes
from feedwater_service.model.choose import choose, smallest_as_good
from feedwater_service.model.company import company_of, in_company, left_for, others_of, own_steps, part_for
from feedwater_service.model.curve import Point, counts_up_to, curve, point, with_workers
from feedwater_service.model.device import pinned, two_stage, with_work
from feedwater_service.model.estimate import Estimate, epoch_with_workers, estimate, with_workers_known
from feedwater_service.model.evidence import facts
from feedwater_service.model.explain import Situation, fit, sentence, verdict
from feedwater_service.model.figures import summarise
from feedwater_service.model.group import Group, group_of
from feedwater_service.model.history import recent
from feedwater_service.model.overlap import ceiling_within
from feedwater_service.model.prefetch import Depths, other_depth
from feedwater_service.model.storage import Ceiling, find_ceiling
from feedwater_service.model.values import (
    Budget,
    Epoch,
    Loader,
    NoRecommendation,
    Pod,
    Policy,
    Reason,
    Recommendation,
    Settings,
    Verdict,
)
from feedwater_service.model.verify import Verification, epoch_before, pending_change, verify
from feedwater_service.model.what_if import NO_OUTLOOK, Outlook, Question, explore, limits_found, predicted
from feedwater_service.model.work import ALONE, Company

MISFIT = 1.4
"""Factor between simulated and measured speed beyond which an epoch is not understood."""
TOO_VAGUE = 0.15
"""Relative standard error of the mean load from which a running epoch says too little yet: after 100 batches
of a lognormal tail with sigma 1.5 it is 0.29, and the choice would follow the draw."""
FRESH = 0.4
"""Share of the epoch that a draft must have seen to stand for the whole of it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The expensive part of a recommendation, made while the epoch runs."""

    name: str
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
    ceiling: Ceiling | None
    past: Past
    points: tuple[Point, ...]
    """As simulated; what was measured is not in them."""
    causes: tuple[Causes, ...]
    """At the settings in use, and at those that are best without limits."""
    tried: Mapping[Settings, Point] = field(default_factory=dict)
    """Other depths of the queue, as far as they were simulated."""
    outlook: Outlook = NO_OUTLOOK
    """Under other CPU limits."""


def draft(pod: Pod, name: str, policy: Policy) -> Draft | NoRecommendation:
    """Fit and simulate what the epoch says so far: the expensive part of `recommend`.

    Args:
        pod: All loaders and ranks that share the budget.
        name: The loader's.
        policy: Bounds that are not physics.
    """
    group = _ready(pod, name, policy)
    if isinstance(group, NoRecommendation):
        return group
    return _draft(group, policy)


def recommend(
    pod: Pod, name: str, policy: Policy, draft: Draft | None = None
) -> Recommendation | NoRecommendation:
    """Return the answer for all ranks of loader ``name``, covering their last epoch.

    Args:
        pod: All loaders and ranks that share the budget.
        name: The loader's.
        policy: Bounds that are not physics.
        draft: Of the same epoch; a stale one is made anew.
    """
    group = _ready(pod, name, policy)
    if isinstance(group, NoRecommendation):
        return group
    made = _renewed(draft, group) if draft is not None and _is_fresh(draft, group) else _draft(group, policy)
    if not group.epoch.complete and made.estimate.load_spread > TOO_VAGUE:
        return _too_vague(made)
    weighed = _weigh(group, made)
    if weighed is not None and not weighed.helped:
        return _roll_back(group, made, weighed)
    loader = recent(group.slowest, group.pod.budget)
    changes = sum(1 for c in loader.changes if not c.rolls_back)
    if changes >= policy.max_changes:
        return NoRecommendation(
            Reason.FROZEN, f"Loader {name!r} was changed {changes} times already; its settings stay."
        )
    return _recommend(group, made, policy)


def _too_vague(made: Draft) -> NoRecommendation:
    error, known = made.estimate.load_spread, made.batches
    return NoRecommendation(
        Reason.TOO_FEW_BATCHES,
        f"Load times vary so much that {known} batches tell their mean to {error:.0%} only; more are needed.",
    )


def _ready(pod: Pod, name: str, policy: Policy) -> Group | NoRecommendation:
    """The group, if there is enough to go by."""
    group = group_of(pod, name)
    if group is None:
        return NoRecommendation(Reason.NOT_REPORTED, f"No epoch of loader {name!r} has been reported yet.")
    if not all(x.tunable for x in group.loaders):
        return NoRecommendation(
            Reason.NOT_TUNABLE, f"Loader {name!r} cannot be tuned: it is not a DataLoader."
        )
    if pod.budget.cpus <= 0:
        return NoRecommendation(Reason.LIMIT_UNKNOWN, "The CPUs that the trainer may use are not known.")
    known = min(len(group.epoch.waits), len(group.epoch.steps))
    if known < max(2, policy.min_batches):
        return NoRecommendation(
            Reason.TOO_FEW_BATCHES,
            f"Epoch {group.epoch.number} has {known} measured batches; {policy.min_batches} are needed.",
        )
    return group


def _draft(group: Group, policy: Policy) -> Draft:
    loader, epoch = group.slowest, group.epoch
    others = others_of(group, epoch)
    machine, left = part_for(group), left_for(group, others)
    company = company_of(group, others)
    lately = recent(loader, group.pod.budget)
    fitted = fitted_to(loader, epoch, machine, own_steps(group, epoch, others), company)
    workers_seen = epoch_with_workers(lately.epochs, epoch)
    if workers_seen is not None:
        fitted = with_workers_known(fitted, fitted_to(loader, workers_seen, machine, None, company))
    ceiling = find_ceiling(lately.epochs) or ceiling_within(epoch)
    current = epoch.settings
    also = [current.num_workers, policy.min_workers, *(c.before.num_workers for c in lately.changes[-1:])]
    limit = max(policy.max_workers, current.num_workers)
    limit = min(limit, BLIND * max(1, *(e.settings.num_workers for e in loader.epochs)) * 4)
    counts = counts_up_to(limit, also, fitted, left)
    points = curve(fitted, counts, current, machine, ceiling)
    made = Draft(
        loader.name,
        epoch.number,
        len(epoch.waits),
        current,
        group.pod.budget,
        fitted,
        machine,
        left,
        ceiling,
        look_back(lately.epochs, epoch, fitted, machine, ceiling),
        points,
        tuple(causes(fitted, at, machine, ceiling) for at in _looked_at(points, current)),
    )
    return _looking_ahead(group, made, policy)


def _looking_ahead(group: Group, made: Draft, policy: Policy) -> Draft:
    """The draft with what the choice will most likely ask for: other depths, other CPU limits."""
    choosing = _choosing(group, made, policy)
    deeper = other_depth(choosing) if _explains(choosing.grounds) else None
    best = (deeper or choosing.choice.chosen).settings
    most = caps(group, made.estimate, policy, best.prefetch_factor or 2)[0].workers
    asked = Question(made.estimate, best, made.budget, group.ranks, made.ceiling, most)
    known = (*made.points, *choosing.tried.values())
    plain = next((p for p in known if p.settings == best), None)
    plain = plain or point(made.estimate, best, made.machine, made.ceiling)
    return replace(made, tried=choosing.tried, outlook=explore(asked, plain))


def _looked_at(points: Sequence[Point], current: Settings) -> list[Settings]:
    """The settings that are most likely to be recommended: causes are looked for there beforehand."""
    best = smallest_as_good(points).settings
    return [current] if best.num_workers == current.num_workers else [current, best]


def _causes_at(made: Draft, settings: Settings) -> Causes:
    known = next((c for c in made.causes if c.settings == settings), None)
    return known or causes(made.estimate, settings, made.machine, made.ceiling)


def fitted_to(
    loader: Loader,
    epoch: Epoch,
    machine: Machine,
    step_floor: Sequence[float] | None = None,
    company: Company = ALONE,
) -> Estimate:
    """Return the fitted quantities of an epoch, calibrated on the machine that it ran on, beside whom it did.

    Args:
        loader: Whose epoch it is.
        epoch: With two batches or more.
        machine: The rank's part of it.
        step_floor: Shape (batches,), seconds: the rank's steps without its waiting for others.
        company: Who else ran.
    """
    fitted = estimate(loader, epoch, step_floor)
    work = in_company(two_stage(pinned(fitted.work, loader, epoch), epoch, step_floor), company)
    return with_work(fitted, with_turns(work, epoch, machine))


def _is_fresh(made: Draft, group: Group) -> bool:
    epoch = group.epoch
    return (
        made.name == group.slowest.name
        and made.epoch == epoch.number
        and made.settings == epoch.settings
        and made.budget == group.pod.budget
        and made.batches >= FRESH * max(len(epoch.waits), epoch.batches)
        # Start-up weighs more in a short epoch: one that is taken for half as long is misjudged.
        and made.estimate.batches >= 0.9 * epoch.batches
    )


def _renewed(made: Draft, group: Group) -> Draft:
    """The draft with the figures of the whole epoch."""
    return replace(made, estimate=replace(made.estimate, measured=summarise(group.epoch)))


def _weigh(group: Group, made: Draft) -> Verification | None:
    loader = recent(group.slowest, group.pod.budget)
    change = pending_change(loader, group.epoch)
    before = epoch_before(change, loader.epochs) if change is not None else None
    if change is None or before is None or len(before.waits) < 2:
        return None
    others = others_of(group, before)
    steps = own_steps(group, before, others)
    old = fitted_to(loader, before, made.machine, steps, made.estimate.work.company)
    return verify(change, old, made.estimate, made.machine, made.ceiling)


def _roll_back(group: Group, made: Draft, weighed: Verification) -> Recommendation:
    before, after = weighed.change.before, weighed.change.after
    foot = footprint(group)
    grounds = _grounds(made)
    current = grounds.believed(grounds.observed)
    old = grounds.believed(point(made.estimate, before, made.machine, made.ceiling))
    text = (
        f"Back to {before.num_workers} workers: {after.num_workers} gave {weighed.measured:.3g} batches/s"
        f" where {before.num_workers} would have given {weighed.expected_before:.3g}."
    )
    return Recommendation(
        epoch=made.epoch,
        settings=before,
        uncapped_num_workers=before.num_workers,
        verdict=Verdict.TOO_MANY_WORKERS
        if before.num_workers < after.num_workers
        else Verdict.TOO_FEW_WORKERS,
        sentence=fit(text),
        current=predict(current, grounds, foot),
        chosen=predict(old, grounds, foot),
        curve=tuple(predict(grounds.believed(p), grounds, foot) for p in made.points),
        evidence=facts(group, made.estimate, made.machine),
        rolls_back=True,
    )


def _recommend(group: Group, made: Draft, policy: Policy) -> Recommendation:
    foot, grounds = footprint(group), _grounds(made)
    choosing = _choosing(group, made, policy)
    choice, points = choosing.choice, choosing.points
    current = grounds.believed(grounds.observed)
    explained = _explains(grounds)
    deeper = other_depth(choosing) if explained else None
    situation = Situation(
        group,
        made.estimate,
        made.left,
        points,
        current,
        choice,
        policy,
        made.ceiling,
        _causes_at(made, current.settings),
        _causes_at(made, (deeper or choice.chosen).settings),
        choice.best_uncapped.spread,
        explained,
        deeper,
    )
    named = verdict(situation)
    chosen = predict(deeper or choice.chosen, grounds, foot)
    return Recommendation(
        epoch=made.epoch,
        settings=chosen.settings,
        uncapped_num_workers=choice.best_uncapped.settings.num_workers,
        verdict=named,
        sentence=sentence(situation, named),
        current=predict(current, grounds, foot),
        chosen=chosen,
        curve=tuple(predict(p, grounds, foot) for p in points),
        evidence=(
            *facts(group, made.estimate, made.left),
            *(limits_found(made.outlook) if explained else ()),
        ),
        advice=advice(situation, named),
        what_if=predicted(made.outlook, chosen, lambda p: predict(grounds.believed(p), grounds, foot))
        if explained
        else (),
    )


def _choosing(group: Group, made: Draft, policy: Policy) -> Depths:
    """The choice of a count, from which that of a depth is made."""
    loader, grounds = recent(group.slowest, group.pod.budget), _grounds(made)
    current = grounds.believed(grounds.observed)
    limits = caps(group, made.estimate, policy, current.settings.prefetch_factor or 2)
    points = tuple(
        current if p.settings.num_workers == current.settings.num_workers else grounds.believed(p)
        for p in _with_top(made, limits[0])
    )
    fits = current.settings.num_workers <= limits[0].workers
    offered = (current,) if fits and not _explains(grounds) else points
    choice = choose(offered, limits, current, loader, policy)
    return Depths(group, loader, grounds, choice, policy, points, dict(made.tried))


def _explains(grounds: Grounds) -> bool:
    """Whether the simulation comes near what was measured at the settings in use."""
    measured = grounds.estimate.measured.batches_per_second
    simulated = grounds.observed.outcome.batches_per_second
    return measured > 0 and 1 / MISFIT < simulated / measured < MISFIT


def _with_top(made: Draft, cap: Cap) -> tuple[Point, ...]:
    """The curve with the cap itself among its counts, where that lies between two of them."""
    counts = {p.settings.num_workers for p in made.points}
    if cap.workers in counts or cap.workers > max(counts):
        return made.points
    extra = point(made.estimate, with_workers(made.settings, cap.workers), made.machine, made.ceiling)
    return tuple(sorted((*made.points, extra), key=lambda p: p.settings.num_workers))


def _point_at(made: Draft, settings: Settings) -> Point:
    """The simulated point of the settings in use; its count is always on the curve."""
    found = next(p for p in made.points if p.settings.num_workers == settings.num_workers)
    return replace(found, settings=settings)


def _grounds(made: Draft) -> Grounds:
    return Grounds(made.estimate, made.machine, _point_at(made, made.settings), made.ceiling, made.past)
