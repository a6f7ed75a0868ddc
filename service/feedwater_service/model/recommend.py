"""The stages in order: from a pod's samples to a recommendation, or to the reason why there is none."""

from __future__ import annotations

from feedwater_service.model.analysis import Analysis, analyse_group, fit_epoch, select_count
from feedwater_service.model.choose.prefetch import other_depth
from feedwater_service.model.choose.verify import Verification, epoch_before, pending_change, verify
from feedwater_service.model.choose.what_if import predicted
from feedwater_service.model.explain.advice import advice
from feedwater_service.model.explain.evidence import cpu_limit_evidence, facts, reserve_evidence
from feedwater_service.model.explain.sentence import action, cause, sentence
from feedwater_service.model.explain.verdict import Diagnosis, verdict
from feedwater_service.model.fit.colocation import machine_share, own_steps_of_all
from feedwater_service.model.fit.memory import footprint
from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.group import RankGroup, group_of, key_of
from feedwater_service.model.observed.pooling import known_batches
from feedwater_service.model.predict.bounds import predict
from feedwater_service.model.predict.curve import point
from feedwater_service.model.text import (
    number_text,
    truncated,
    workers_text,
)
from feedwater_service.model.types import (
    GroupKey,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Recommendation,
    Verdict,
)


def analyse(pod: Pod, loader: GroupKey | str, policy: Policy) -> Analysis | NoRecommendation:
    """Fit and simulate the last epoch as far as it is known: the expensive part of `recommend`.

    Args:
        pod: All loaders and ranks that share the budget.
        loader: The group's key, or the name where no job is known.
        policy: The bounds of recommendations.
    """
    group = _ready(pod, loader, policy)
    return group if isinstance(group, NoRecommendation) else analyse_group(group, policy)


def recommend(
    pod: Pod, loader: GroupKey | str, policy: Policy, analysis: Analysis | None = None
) -> Recommendation | NoRecommendation:
    """Return the answer for all ranks of a loader, covering their last epoch.

    Args:
        pod: All loaders and ranks that share the budget.
        loader: The group's key, or the name where no job is known.
        policy: The bounds of recommendations.
        analysis: Of the same epoch, if there is one; analysis now if it is missing or no longer current.
    """
    group = _ready(pod, loader, policy)
    if isinstance(group, NoRecommendation):
        return group
    if analysis is not None and analysis.is_current_for(group):
        analysis = analysis.with_whole_epoch(group.pool)
    else:
        analysis = analyse_group(group, policy)
    if not group.epoch.complete and analysis.context.estimate.load_spread > floors.MAX_LOAD_SPREAD:
        return _too_vague(analysis)
    verified = _verify_last_change(group, analysis, policy)
    if verified is not None and not verified.helped:
        return _roll_back(group, analysis, verified)
    changes = sum(1 for c in group.recent.changes if not c.rolls_back)
    if changes >= policy.max_changes:
        return NoRecommendation(
            NoRecommendationReason.FROZEN,
            f"Loader {group.slowest.name!r} was changed {changes} times already; its settings stay.",
        )
    return _recommend(group, analysis, policy)


def _too_vague(analysis: Analysis) -> NoRecommendation:
    error, known = analysis.context.estimate.load_spread, analysis.epoch.batches
    return NoRecommendation(
        NoRecommendationReason.TOO_FEW_BATCHES,
        f"Load times vary so much that {known} batches tell their mean to {error:.0%} only; more are needed.",
    )


def _ready(pod: Pod, loader: GroupKey | str, policy: Policy) -> RankGroup | NoRecommendation:
    """The ranks of the loader, if enough of them is known for a recommendation."""
    group, name = group_of(pod, loader, policy.min_batches), key_of(loader)[2]
    if group is None:
        return NoRecommendation(
            NoRecommendationReason.NOT_REPORTED, f"No epoch of loader {name!r} has been reported yet."
        )
    if not all(x.tunable for x in group.loaders):
        return NoRecommendation(
            NoRecommendationReason.NOT_TUNABLE, f"Loader {name!r} cannot be tuned: it is not a DataLoader."
        )
    if pod.budget.cpus <= 0:
        return NoRecommendation(
            NoRecommendationReason.LIMIT_UNKNOWN, "The CPUs that the trainer may use are not known."
        )
    known = known_batches(group.pool)
    if known < max(2, policy.min_batches):
        return NoRecommendation(NoRecommendationReason.TOO_FEW_BATCHES, _too_few(group, known, policy))
    return group


def _too_few(group: RankGroup, known: int, policy: Policy) -> str:
    epoch = group.pool
    if not epoch.parts and not epoch.complete:
        return f"Epoch {epoch.number} has {known} measured batches so far; {policy.min_batches} are needed."
    batches = max(epoch.batches, 0 if epoch.parts else known)
    each = "1 batch" if batches == 1 else f"{batches} batches"
    return f"Epochs of {each}: {known} measured under these settings, {policy.min_batches} are needed."


def _verify_last_change(group: RankGroup, analysis: Analysis, policy: Policy) -> Verification | None:
    change = pending_change(group.recent, group.epoch, policy.min_batches)
    before = epoch_before(change, group.recent.epochs, policy.min_batches) if change is not None else None
    if change is None or before is None or len(before.waits) < 2:
        return None
    steps = own_steps_of_all(group, before)
    old, then = fit_epoch(
        group.recent, before, machine_share(group), steps, analysis.context.estimate.work.colocation
    )
    return verify(
        change, old, analysis.context.estimate, analysis.context.machine, analysis.context.ceiling, then
    )


def _roll_back(group: RankGroup, analysis: Analysis, verified: Verification) -> Recommendation:
    before, after = verified.change.before, verified.change.after
    foot = footprint(group)
    context = analysis.context
    current = context.corrected(context.observed)
    old = context.corrected(
        point(analysis.context.estimate, before, analysis.context.machine, analysis.context.ceiling)
    )
    gave = f"{after.num_workers} gave {number_text(verified.measured)} batches/s"
    given = f"{before.num_workers} would have given {number_text(verified.expected_before)}"
    back, why = f"Back to {workers_text(before.num_workers)}", f"{gave} where {given}"
    return Recommendation(
        epoch=group.number,
        settings=before,
        uncapped_num_workers=before.num_workers,
        verdict=Verdict.TOO_MANY_WORKERS
        if before.num_workers < after.num_workers
        else Verdict.TOO_FEW_WORKERS,
        sentence=truncated(f"{back}: {why}."),
        action=back,
        cause=why,
        current=predict(current, context, foot),
        chosen=predict(old, context, foot),
        curve=tuple(predict(context.corrected(p), context, foot) for p in analysis.points),
        evidence=facts(group, analysis.context.estimate, analysis.context.machine),
        rolls_back=True,
    )


def _recommend(group: RankGroup, analysis: Analysis, policy: Policy) -> Recommendation:
    foot, context = footprint(group), analysis.context
    selection = select_count(group, analysis, policy)
    choice, points = selection.choice, selection.points
    is_understood = context.reproduces_epoch
    deeper = other_depth(selection) if is_understood else None
    recommended = deeper or choice.chosen
    diagnosis = Diagnosis(
        selection=selection,
        deeper=deeper,
        machine=analysis.machine_left,
        at_current=analysis.counterfactuals_at(selection.current.settings, policy),
        at_recommended=analysis.counterfactuals_at(recommended.settings, policy),
    )
    named = verdict(diagnosis)
    chosen = predict(recommended, context, foot)
    advised = advice(diagnosis, named)
    sweep = analysis.limit_sweep
    return Recommendation(
        epoch=group.number,
        settings=chosen.settings,
        uncapped_num_workers=choice.best_uncapped.settings.num_workers,
        verdict=named,
        sentence=sentence(diagnosis, named),
        action=action(diagnosis),
        cause=cause(diagnosis, named),
        current=predict(selection.current, context, foot),
        chosen=chosen,
        curve=tuple(predict(p, context, foot) for p in points),
        evidence=(
            *facts(group, context.estimate, analysis.machine_left),
            *(reserve_evidence(choice.chosen, points) if is_understood and not choice.declined else ()),
            *(cpu_limit_evidence(sweep) if is_understood else ()),
        ),
        advice=tuple(advised.values()),
        advice_topics=tuple(advised),
        cpu_limit_needed_cores=sweep.needed_cores if is_understood else None,
        what_if=predicted(sweep, chosen, lambda p: predict(context.corrected(p), context, foot))
        if is_understood
        else (),
    )
