"""What is done with a recommendation, and how it is taken back."""

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
class Decision:
    """What is done with a recommendation."""

    outcome: Outcome
    detail: str = ""
    """Why it is not applied, a full sentence."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change made just now, until the iterator under it exists."""

    recommendation: Recommendation
    before: LoaderSettings
    after: LoaderSettings


def decide(
    watched: WatchedLoader,
    loader: object,
    recommendation: Recommendation,
    now: LoaderSettings,
    wanted: LoaderSettings,
    epoch_was_complete: bool,
) -> Decision:
    """Return what to do with a recommendation to go from ``now`` to ``wanted``."""
    if not recommendation.changes or now == wanted:
        return Decision(Outcome.UNCHANGED)
    if effective_mode(watched) is not Mode.AUTO:
        return Decision(Outcome.ADVISED)
    tuning = watched.tuning
    if tuning.obstacle:
        return Decision(Outcome.ADVISED, tuning.obstacle)
    if tuning.crashed_change is not None:
        return Decision(Outcome.REFUSED, "The last run of this job died while a change was tried.")
    why = apply.refusal(loader, now, wanted, epoch_was_complete)
    if not why and not watched.options.allow_workers:
        why = _risk(watched, loader, now, wanted, epoch_was_complete)
    return Decision(Outcome.REFUSED, why) if why else Decision(Outcome.APPLIED)


def _risk(
    watched: WatchedLoader,
    loader: object,
    now: LoaderSettings,
    wanted: LoaderSettings,
    epoch_was_complete: bool,
) -> str:
    recording = watched.recording
    return safety.refusal(
        watched.tuning,
        cast("safety.Loader", loader),
        now,
        wanted,
        was_exhausted=epoch_was_complete and not recording.is_endless,
        last_index=recording.main_process.last_index,
    )


def make(
    tuning: Tuning,
    name: str,
    loader: object,
    recommendation: Recommendation,
    now: LoaderSettings,
    wanted: LoaderSettings,
) -> tuple[Decision, Change | None]:
    """Put the change on record, then make it."""
    try:
        tuning.start_change(probation.write(process.settings(), name, now, wanted))
    except OSError as error:
        return Decision(Outcome.REFUSED, f"No record of the change could be written ({error})."), None
    try:
        apply.change(loader, wanted)
        registry.note_assigned(loader, wanted)
    except Exception as error:
        undo(tuning, loader, now)
        return Decision(Outcome.FAILED, failed(error)), None
    tuning.choose(wanted)
    return Decision(Outcome.APPLIED), Change(recommendation, now, wanted)


def undo(tuning: Tuning, loader: object, before: LoaderSettings) -> None:
    """Take a change back whose iterator could not be made."""
    apply.change(loader, before)
    registry.note_assigned(loader, before)
    tuning.choose(before)
    tuning.end_probation()


def failed(error: Exception) -> str:
    """Return what is reported of a change that failed."""
    return f"Making the iterator failed: {type(error).__name__}: {error}"[:300]


def report(
    recording: Recording, recommendation: Recommendation, decision: Decision, now: LoaderSettings
) -> None:
    """Tell the sidecar what became of its recommendation."""
    assert recording.transport is not None
    recording.transport.report_applied(
        recording.key, recommendation.id, decision.outcome, now, decision.detail
    )
