"""What is done with a recommendation, and how it is taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from feedwater.loop import process, watched
from feedwater.loop.boundary.registration import effective_mode
from feedwater.loop.change import apply, probation, safety
from feedwater.loop.watched import Mark
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
    mark: Mark,
    loader: object,
    recommendation: Recommendation,
    now: LoaderSettings,
    wanted: LoaderSettings,
    epoch_was_complete: bool,
) -> Decision:
    """Return what to do with a recommendation to go from ``now`` to ``wanted``."""
    if not recommendation.changes or now == wanted:
        return Decision(Outcome.UNCHANGED)
    if effective_mode(mark) is not Mode.AUTO:
        return Decision(Outcome.ADVISED)
    if not mark.can_apply:
        why = "makes its iterators by itself" if mark.makes_iterators else "keeps its iterator"
        return Decision(Outcome.ADVISED, f"This loader {why}; set it at the next start.")
    if mark.held_by is not None:
        return Decision(Outcome.REFUSED, "The last run of this job died while a change was tried.")
    why = apply.refusal(loader, now, wanted, epoch_was_complete)
    was_exhausted = epoch_was_complete and not mark.is_endless
    why = why or safety.refusal(mark, cast("safety.Loader", loader), now, wanted, was_exhausted)
    return Decision(Outcome.REFUSED, why) if why else Decision(Outcome.APPLIED)


def make(
    mark: Mark, loader: object, recommendation: Recommendation, now: LoaderSettings, wanted: LoaderSettings
) -> tuple[Decision, Change | None]:
    """Put the change on record, then make it."""
    try:
        mark.probation = probation.write(process.settings(), mark.name, now, wanted)
    except OSError as error:
        return Decision(Outcome.REFUSED, f"No record of the change could be written ({error})."), None
    mark.is_rebuilding = True
    try:
        apply.change(loader, wanted)
        watched.note_given(loader, wanted)
    except Exception as error:
        undo(mark, loader, now)
        return Decision(Outcome.FAILED, failed(error)), None
    mark.chosen = None if wanted == mark.own_settings else wanted
    return Decision(Outcome.APPLIED), Change(recommendation, now, wanted)


def undo(mark: Mark, loader: object, before: LoaderSettings) -> None:
    """Take a change back whose iterator could not be made."""
    apply.change(loader, before)
    watched.note_given(loader, before)
    mark.chosen = None if before == mark.own_settings else before
    record, mark.probation = mark.probation, None
    if record is not None:
        record.clear()


def failed(error: Exception) -> str:
    """Return what is reported of a change that failed."""
    return f"Making the iterator failed: {type(error).__name__}: {error}"[:300]


def report(mark: Mark, recommendation: Recommendation, decision: Decision, now: LoaderSettings) -> None:
    """Tell the sidecar what became of its recommendation."""
    assert mark.transport is not None
    mark.transport.report_applied(mark.key, recommendation.id, decision.outcome, now, decision.detail)
