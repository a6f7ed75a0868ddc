"""What was last said of a loader, and which of its epochs shows what it does."""

from __future__ import annotations

from dataclasses import dataclass

from feedwater.relay.views import LoaderView
from feedwater.status.words import counted
from feedwater.values import EpochSummary, LoaderSettings

PEEK_BATCHES = 1
"""Of an epoch that is none: ``next(iter(loader))`` to look at a batch, or an iterator that nobody used."""
NOT_DONE = {"refused": "not applied", "failed": "failed, taken back"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The last word on a loader."""

    verdict: str
    settings: LoaderSettings | None
    """Recommended; None: nothing is."""
    sentence: str
    """What is recommended and why, or why nothing is."""
    advice: tuple[str, ...] = ()
    refusal: str = ""
    """Why the recommendation is not in use though it may be; empty if it is."""
    reason_code: str = ""
    """The kind of the reason why nothing is recommended; empty where it is not known."""


def judgement(view: LoaderView) -> Judgement:
    """Return what was last said of a loader, whatever a look at one of its batches brought later."""
    made = view.recommendation
    if made is not None:
        return Judgement(made.verdict, made.settings, made.sentence, made.advice, _refusal(view))
    return _before_a_peek(view) or Judgement(
        _newest_verdict(view), None, view.reason, reason_code=view.reason_code
    )


def _newest_verdict(view: LoaderView) -> str:
    return view.epochs[-1].summary.verdict if view.epochs else "UNKNOWN"


def _before_a_peek(view: LoaderView) -> Judgement | None:
    """Return the word before the last, if that was on an epoch of one batch: "20 are needed"."""
    peeks = {epoch.summary.epoch for epoch in view.epochs if is_peek(epoch.summary)}
    if not view.decisions or view.decisions[-1].epoch not in peeks:
        return None
    kept = next((d for d in reversed(view.decisions) if d.epoch not in peeks), None)
    return Judgement(kept.verdict, kept.settings, kept.sentence) if kept is not None else None


def _refusal(view: LoaderView) -> str:
    last = view.decisions[-1] if view.decisions else None
    how = NOT_DONE.get(last.outcome, "") if last is not None else ""
    return f"{how}: {last.detail}" if last is not None and how and last.detail else ""


def is_peek(epoch: EpochSummary) -> bool:
    """Say whether the epoch is a look at a batch, and none of training."""
    return epoch.batches <= PEEK_BATCHES


def telling_epoch(view: LoaderView) -> EpochSummary | None:
    """Return the newest epoch that shows what the loader does: one just begun does not, nor does a peek."""
    known = [epoch.summary for epoch in view.epochs]
    real = [epoch for epoch in known if not is_peek(epoch)] or known
    if not real:
        return None
    whole = next((epoch for epoch in reversed(real) if epoch.complete), real[-1])
    return real[-1] if real[-1].batches >= whole.batches else whole


def why_nothing(view: LoaderView) -> str:
    """Return why nothing is recommended: the sidecar's reason, or that it was not asked."""
    reason = judgement(view).sentence
    epoch = telling_epoch(view)
    if reason or epoch is None:
        return reason
    how = "ended" if epoch.complete else "broke off"
    return f"epoch {epoch.epoch} {how} after {counted(epoch.batches, 'batch', 'batches')}."
