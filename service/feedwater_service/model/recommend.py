"""The stages in order: from a pod's samples to a recommendation, or to the reason why there is none."""

from __future__ import annotations

from feedwater_service.model.analysis import Draft, choosing, fitted_to, make_draft
from feedwater_service.model.choose.prefetch import other_depth
from feedwater_service.model.choose.verify import Verification, epoch_before, pending_change, verify
from feedwater_service.model.choose.what_if import predicted
from feedwater_service.model.explain.advice import advice
from feedwater_service.model.explain.evidence import cpu_limit_evidence, facts, reserve_evidence
from feedwater_service.model.explain.verdict import Situation, action, cause, sentence, verdict
from feedwater_service.model.fit.colocation import machine_share, own_steps_of_all
from feedwater_service.model.fit.memory import footprint
from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.group import Group, group_of
from feedwater_service.model.observed.pooling import known_batches
from feedwater_service.model.predict.bounds import predict
from feedwater_service.model.predict.curve import point
from feedwater_service.model.text import truncated, workers_text
from feedwater_service.model.types import NoRecommendation, Pod, Policy, Reason, Recommendation, Verdict


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
    return make_draft(group, policy)


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
    if draft is not None and draft.stands_for(group):
        made = draft.of_the_whole(group.pool)
    else:
        made = make_draft(group, policy)
    if not group.epoch.complete and made.estimate.load_spread > floors.MAX_LOAD_SPREAD:
        return _too_vague(made)
    weighed = _weigh(group, made, policy)
    if weighed is not None and not weighed.helped:
        return _roll_back(group, made, weighed)
    changes = sum(1 for c in group.lately.changes if not c.rolls_back)
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
    group = group_of(pod, name, policy.min_batches)
    if group is None:
        return NoRecommendation(Reason.NOT_REPORTED, f"No epoch of loader {name!r} has been reported yet.")
    if not all(x.tunable for x in group.loaders):
        return NoRecommendation(
            Reason.NOT_TUNABLE, f"Loader {name!r} cannot be tuned: it is not a DataLoader."
        )
    if pod.budget.cpus <= 0:
        return NoRecommendation(Reason.LIMIT_UNKNOWN, "The CPUs that the trainer may use are not known.")
    known = known_batches(group.pool)
    if known < max(2, policy.min_batches):
        return NoRecommendation(Reason.TOO_FEW_BATCHES, _too_few(group, known, policy))
    return group


def _too_few(group: Group, known: int, policy: Policy) -> str:
    epoch = group.pool
    if not epoch.parts and not epoch.complete:
        return f"Epoch {epoch.number} has {known} measured batches so far; {policy.min_batches} are needed."
    batches = max(epoch.batches, 0 if epoch.parts else known)
    each = "1 batch" if batches == 1 else f"{batches} batches"
    return f"Epochs of {each}: {known} measured under these settings, {policy.min_batches} are needed."


def _weigh(group: Group, made: Draft, policy: Policy) -> Verification | None:
    change = pending_change(group.lately, group.epoch, policy.min_batches)
    before = epoch_before(change, group.lately.epochs, policy.min_batches) if change is not None else None
    if change is None or before is None or len(before.waits) < 2:
        return None
    steps = own_steps_of_all(group, before)
    old, then = fitted_to(group.lately, before, machine_share(group), steps, made.estimate.work.colocation)
    return verify(change, old, made.estimate, made.machine, made.ceiling, then)


def _roll_back(group: Group, made: Draft, weighed: Verification) -> Recommendation:
    before, after = weighed.change.before, weighed.change.after
    foot = footprint(group)
    grounds = made.grounds
    current = grounds.corrected(grounds.observed)
    old = grounds.corrected(point(made.estimate, before, made.machine, made.ceiling))
    gave = f"{after.num_workers} gave {weighed.measured:.3g} batches/s"
    given = f"{before.num_workers} would have given {weighed.expected_before:.3g}"
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
        current=predict(current, grounds, foot),
        chosen=predict(old, grounds, foot),
        curve=tuple(predict(grounds.corrected(p), grounds, foot) for p in made.points),
        evidence=facts(group, made.estimate, made.machine),
        rolls_back=True,
    )


def _recommend(group: Group, made: Draft, policy: Policy) -> Recommendation:
    foot, grounds = footprint(group), made.grounds
    counts = choosing(group, made, policy)
    choice, points = counts.choice, counts.points
    current = grounds.corrected(grounds.observed)
    explained = made.explains
    deeper = other_depth(counts) if explained else None
    situation = Situation(
        group,
        made.estimate,
        made.left,
        points,
        current,
        choice,
        policy,
        made.ceiling,
        made.counterfactuals_at(current.settings, policy),
        made.counterfactuals_at((deeper or choice.chosen).settings, policy),
        choice.best_uncapped.spread,
        explained,
        deeper,
    )
    named = verdict(situation)
    chosen = predict(deeper or choice.chosen, grounds, foot)
    advised = advice(situation, named)
    return Recommendation(
        epoch=group.number,
        settings=chosen.settings,
        uncapped_num_workers=choice.best_uncapped.settings.num_workers,
        verdict=named,
        sentence=sentence(situation, named),
        action=action(situation),
        cause=cause(situation, named),
        current=predict(current, grounds, foot),
        chosen=chosen,
        curve=tuple(predict(p, grounds, foot) for p in points),
        evidence=(
            *facts(group, made.estimate, made.left),
            *(reserve_evidence(choice.chosen, points) if explained and not choice.why_kept else ()),
            *(cpu_limit_evidence(made.limit_sweep) if explained else ()),
        ),
        advice=tuple(advised.values()),
        advice_topics=tuple(advised),
        cpu_limit_needed_cores=made.limit_sweep.needed_cores if explained else None,
        what_if=predicted(made.limit_sweep, chosen, lambda p: predict(grounds.corrected(p), grounds, foot))
        if explained
        else (),
    )
