"""Decides whether a recommendation is applied, applies it, and takes it back where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from feedwater.loop import process, registry
from feedwater.loop.boundary.registration import effective_mode
from feedwater.loop.change import apply, probation, safety
from feedwater.loop.change.tuning import Tuning
from feedwater.loop.measure.recording import Recording
from feedwater.loop.watched import WatchedLoader
from feedwater.values import LoaderSettings, Mode, Outcome, Recommendation


@dataclass(frozen=True, slots=True)
class ApplyDecision:
    """Whether a recommendation is applied."""

    outcome: Outcome
    detail: str = ""
    """Why it is not applied, a full sentence."""


@dataclass(frozen=True, slots=True)
class PendingChange:
    """The change that a recommendation asks for, until an iterator exists under the new settings."""

    recommendation: Recommendation
    before: LoaderSettings
    """In use."""
    after: LoaderSettings
    """Wanted."""


def decide(
    watched: WatchedLoader, loader: object, change: PendingChange, epoch_was_complete: bool
) -> ApplyDecision:
    """Return whether ``change`` is to be made, and if not, why."""
    tuning = watched.tuning
    if not change.recommendation.changes or change.before == change.after:
        return ApplyDecision(Outcome.UNCHANGED)
    if effective_mode(watched) is not Mode.AUTO:
        return ApplyDecision(Outcome.ADVISED)
    if tuning.obstacle:
        return ApplyDecision(Outcome.ADVISED, tuning.obstacle)
    if tuning.crashed_change is not None:
        return ApplyDecision(Outcome.REFUSED, "The last run of this job died while a change was tried.")
    why = apply.refusal(loader, change.before, change.after, epoch_was_complete)
    if not why and not watched.options.allow_workers:
        why = _why_unsafe(watched, loader, change, epoch_was_complete)
    return ApplyDecision(Outcome.REFUSED, why) if why else ApplyDecision(Outcome.APPLIED)


def _why_unsafe(
    watched: WatchedLoader, loader: object, change: PendingChange, epoch_was_complete: bool
) -> str:
    recording = watched.recording
    return safety.refusal(
        watched.tuning,
        cast("safety.Loader", loader),
        change.before,
        change.after,
        was_exhausted=epoch_was_complete and not recording.is_endless,
        last_index=recording.main_process.last_index,
    )


def make(tuning: Tuning, name: str, loader: object, change: PendingChange) -> ApplyDecision:
    """Write the probation record of a change, then make it; return the outcome."""
    try:
        tuning.start_change(probation.write(process.settings(), name, change.before, change.after))
    except OSError as error:
        return ApplyDecision(Outcome.REFUSED, f"No record of the change could be written ({error}).")
    try:
        apply.change(loader, change.after)
        registry.note_assigned(loader, change.after)
    except Exception as error:
        undo(tuning, loader, change.before)
        return ApplyDecision(Outcome.FAILED, failure_detail(error))
    tuning.choose(change.after)
    return ApplyDecision(Outcome.APPLIED)


def undo(tuning: Tuning, loader: object, before: LoaderSettings) -> None:
    """Restore the settings before a change, because no iterator could be made under it."""
    apply.change(loader, before)
    registry.note_assigned(loader, before)
    tuning.choose(before)
    tuning.end_probation()


def failure_detail(error: Exception) -> str:
    """Return why a change failed, for the log and the sidecar."""
    return f"Making the iterator failed: {type(error).__name__}: {error}"[:300]


def report(
    recording: Recording, recommendation_id: str, decision: ApplyDecision, settings: LoaderSettings
) -> None:
    """Report to the sidecar whether its recommendation was applied, and the ``settings`` in use now."""
    assert recording.transport is not None
    recording.transport.report_applied(
        recording.key, recommendation_id, decision.outcome, settings, decision.detail
    )
