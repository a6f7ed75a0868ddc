"""Logs the epochs of a loader: one line for each that has something new; and calls ``on_epoch``."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Iterable

from feedwater.loop import process
from feedwater.loop.boundary.answers import Refusal
from feedwater.loop.boundary.decision import ApplyDecision
from feedwater.loop.boundary.line import MAX_LINE, MAX_NAME, MAX_REASON, Reason, clean, compose, cut
from feedwater.loop.boundary.registration import effective_mode
from feedwater.loop.history import History
from feedwater.loop.log import log_line, log_once, log_swallowed, note_logged, visible_level
from feedwater.loop.watched import WatchedLoader
from feedwater.settings import DEFAULT_ADDRESS
from feedwater.values import Answer, EpochSummary, LoaderSettings, Mode, Outcome, Recommendation

OUTCOME_SUFFIX = {
    Outcome.ADVISED: " (advice)",
    Outcome.REFUSED: " (not applied)",
    Outcome.FAILED: " (failed, taken back)",
}
"""Follows a recommendation that was not applied."""
DETAIL_PREFIX = {
    Outcome.ADVISED: "advice only: ",
    Outcome.REFUSED: "not applied: ",
    Outcome.FAILED: "failed: ",
}
"""Precedes the reason for that in a line of its own."""
HINT = "; start the script with `feedwater run train.py` to have one"
UNJUDGED_EPOCHS = 2
"""Epochs without a recommendation after which the log says why: the first epoch of many loaders is a short
one, as Lightning's sanity check is."""


def log_connection(watched: WatchedLoader, answer: Answer) -> None:
    """Log that the sidecar became unavailable, or available again; a late answer shows neither."""
    if answer.late:
        why = f"no answer from the sidecar this time ({clean(answer.reason).rstrip('.')})"
        log_once("late", f"{why}; it is asked again after the next epoch", _level(logging.INFO))
        return
    if answer.connected == watched.history.is_connected or (not answer.address and not answer.connected):
        return
    was_connected = watched.history.note_connection(answer.connected)
    if answer.connected:
        level = logging.INFO if was_connected is False else logging.DEBUG
        log_line(f"{watched.name}: connected to the sidecar at {answer.address}", level)
        return
    settings = watched.recording.settings
    count = settings.num_workers if settings is not None else 0
    log_line(
        f"sidecar at {answer.address} unavailable; training continues with num_workers={count}"
        f"{_hint(answer.address)}",
        logging.WARNING if was_connected else logging.INFO,
    )


def _hint(address: str) -> str:
    """Return, once, how to start a sidecar; empty in a pod, and where the user named an address."""
    # `feedwater run` and the injected client put this directory on the path.
    is_injected = "inject/site" in os.environ.get("PYTHONPATH", "")
    is_in_pod = is_injected or "KUBERNETES_SERVICE_HOST" in os.environ
    return HINT if not is_in_pod and address == DEFAULT_ADDRESS and note_logged("hint") else ""


def log_decision(
    watched: WatchedLoader, summary: EpochSummary, recommendation: Recommendation, decision: ApplyDecision
) -> None:
    """Log the figures of an epoch, the recommendation, and why it was not applied."""
    outcome = decision.outcome
    is_change = outcome in (Outcome.APPLIED, Outcome.FAILED)
    is_news = _note_logged(watched.history, recommendation, decision)
    level = _level(logging.INFO, is_change) if is_news else logging.DEBUG
    cause, advice = _cause(recommendation), _advice(recommendation)
    detail = Reason(decision.detail, True, DETAIL_PREFIX.get(outcome, ""))
    reasons = [*advice, *cause] if outcome is Outcome.UNCHANGED else [*cause, *advice]
    text = (
        f"{recommendation.action}{OUTCOME_SUFFIX.get(outcome, '')}"
        if recommendation.action
        else f"{detail.prefix}{recommendation.sentence}"
    )
    _log_epoch(watched, summary, text, level, [detail, *reasons])
    if outcome is Outcome.APPLIED and watched.dataset_kind == "map":
        log_once(
            "streams",
            "samples and their order stay the same; random numbers drawn in workers depend on their count",
            _level(logging.INFO, is_change),
        )


def log_preview(watched: WatchedLoader, summary: EpochSummary, recommendation: Recommendation) -> None:
    """Log the recommendation for an epoch that still runs: the first one, and each with other settings.

    Args:
        watched: The loader's state.
        summary: The epoch so far.
        recommendation: The sidecar's; nothing is applied before the epoch's end.
    """
    is_news = recommendation.settings not in _settings_logged(watched.history)
    watched.history.note_logged((recommendation.settings, "preview"))
    cause, advice = _cause(recommendation), _advice(recommendation)
    when = _when(watched, summary) if recommendation.changes else ""
    level = _level(logging.INFO) if is_news else logging.DEBUG
    reasons = [*cause, *advice] if recommendation.changes else [*advice, *cause]
    if recommendation.action:
        text = f"{recommendation.action} ({when})" if when else recommendation.action
    else:
        text = f"{when}: {recommendation.sentence}" if when else recommendation.sentence
    _log_epoch(watched, summary, text, level, reasons, f", batch {summary.batches}")


def _when(watched: WatchedLoader, summary: EpochSummary) -> str:
    """Return when advice given in the middle of an epoch can be applied."""
    is_tunable = watched.tuning.can_apply and (watched.dataset_kind == "map" or watched.options.allow_workers)
    if not is_tunable:
        return "advice, at the next start"
    if effective_mode(watched) is not Mode.AUTO:
        return "advice"
    # Many trainings on a large corpus have one epoch alone.
    return "from the next epoch" if summary.epoch > 0 else "from the next epoch or start"


def log_no_recommendation(watched: WatchedLoader, summary: EpochSummary, reason: str) -> None:
    """Log once why a loader gets no recommendation, after its second epoch without one.

    Args:
        watched: The loader's state.
        summary: The epoch that ended. One of 0 or 1 batches does not count: the script looked at the data.
        reason: The sidecar's reason, a full sentence.
    """
    history = watched.history
    if history.recommendation is not None or summary.batches < 2:
        return
    before = sum(("not judged", number) in history.logged for number in range(UNJUDGED_EPOCHS))
    history.note_logged(("not judged", before))
    level = _level(logging.INFO) if before == UNJUDGED_EPOCHS - 1 else logging.DEBUG
    _log_epoch(watched, summary, "nothing is recommended", level, [Reason(reason, True)])


def log_refused(watched: WatchedLoader, why: Refusal) -> None:
    """Log once for each cause that an answer of the sidecar is refused."""
    if watched.history.note_logged(("refused answer", why.cause)):
        line = f"{_name(watched)}: {clean(why.sentence)} Training continues as configured."
        log_line(cut(line, MAX_REASON), _level(logging.WARNING))


def log_never_iterated(watched: WatchedLoader) -> None:
    """Log once that a loader was watched and never iterated: the training iterates another object."""
    if not watched.history.note_logged("never iterated"):
        return
    level = _level(logging.WARNING)
    _log_label(watched, level)
    log_line(
        f"{_name(watched)}: nothing is measured, its batches do not pass through Feedwater; "
        "give feedwater.watch the loader that the training loop iterates",
        level,
    )


def log_epoch(watched: WatchedLoader, summary: EpochSummary, text: str, level: int) -> None:
    """Log the figures of an epoch, and ``text`` with them."""
    _log_epoch(watched, summary, text, level, [])


def _level(level: int, is_change: bool = False) -> int:
    """Return the level for this rank: DEBUG on all but rank 0; where a change is logged, a visible one."""
    if process.settings().rank > 0:
        return logging.DEBUG
    return visible_level() if is_change and level == logging.INFO else level


def _cause(recommendation: Recommendation) -> list[Reason]:
    """Return the cause, a sentence; nothing from an older sidecar, whose sentence includes it."""
    return [Reason(f"{recommendation.cause}.")] if recommendation.cause else []


def _advice(recommendation: Recommendation) -> list[Reason]:
    return [
        Reason(text, True, topic=topic)
        for text, topic in zip(recommendation.advice, _topics(recommendation), strict=True)
    ]


def _topics(recommendation: Recommendation) -> list[str]:
    """Return the topic of each advice; from an older sidecar, its verdict and the position of the advice."""
    if len(recommendation.advice_topics) == len(recommendation.advice):
        return list(recommendation.advice_topics)
    return [f"{recommendation.verdict} {place}" for place in range(len(recommendation.advice))]


def _note_logged(history: History, recommendation: Recommendation, decision: ApplyDecision) -> bool:
    """Keep a decision as logged; return whether it is new.

    Advice on a topic that was logged is not new, although its figures differ after every epoch.
    """
    keys: list[object] = [("advice", topic) for topic in _topics(recommendation)]
    if decision.outcome is not Outcome.UNCHANGED:
        keys.append((recommendation.settings, decision))
    return history.note_logged(*keys) or decision.outcome is Outcome.APPLIED


def _settings_logged(history: History) -> set[LoaderSettings]:
    return {key[0] for key in history.logged if isinstance(key, tuple) and isinstance(key[0], LoaderSettings)}


def _log_epoch(
    watched: WatchedLoader,
    summary: EpochSummary,
    text: str,
    level: int,
    reasons: Iterable[Reason],
    where: str = "",
) -> None:
    """Log the line of an epoch with as many reasons as fit, the first ones first.

    A reason that must not be cut and does not fit is logged in a line of its own, once for each loader. Other
    reasons that do not fit are logged at DEBUG.
    """
    if level < logging.INFO and not logging.getLogger("feedwater").isEnabledFor(level):
        return
    subject = f"{_name(watched)}: epoch {summary.epoch}{where}"
    figures = f"{summary.batches_per_second:.3g} batches/s, {waiting(summary, watched.recording.uses_cuda)}"
    printable = [reason._replace(text=clean(reason.text)) for reason in reasons if reason.text]
    line, remaining = compose(f"{subject}: {figures}: {clean(text)}", printable)
    _log_label(watched, level)
    log_line(line, level)
    for reason in remaining:
        if level >= logging.INFO and reason.is_whole and _note_reason(watched.history, reason):
            log_line(cut(f"{_name(watched)}: {reason.prefix}{reason.text}", MAX_REASON), level)
        elif logging.getLogger("feedwater").isEnabledFor(logging.DEBUG):
            for part in textwrap.wrap(reason.text, MAX_LINE - len(subject) - 2):
                log_line(f"{subject}: {part}", logging.DEBUG)


def _note_reason(history: History, reason: Reason) -> bool:
    return history.note_logged(("whole", reason.topic or reason.text))


def _log_label(watched: WatchedLoader, level: int) -> None:
    """Log, before the first line of a loader that the user has not named, its dataset and batch size."""
    if level < logging.INFO or watched.options.is_named_by_user or not watched.label:
        return
    if watched.history.note_logged("label"):
        log_line(cut(f"{_name(watched)} is {clean(watched.label)}", MAX_LINE), level)


def _name(watched: WatchedLoader) -> str:
    return cut(clean(watched.name), MAX_NAME)


def waiting(summary: EpochSummary, uses_cuda: bool) -> str:
    """Return the share of the epoch that the device waited, or the host where no device was measured."""
    if summary.device_starvation is not None:
        return f"device waiting {summary.device_starvation:.0%}"
    return f"{'host wait' if uses_cuda else 'waiting'} {summary.starvation:.0%}"


def call_on_epoch(watched: WatchedLoader, summary: EpochSummary, answer: Answer) -> None:
    """Call the user's ``on_epoch``, whose errors must not end the training."""
    on_epoch, epochs = watched.options.on_epoch, watched.history.epochs
    if on_epoch is None:
        return
    last = epochs[-1] if epochs and epochs[-1].epoch == summary.epoch else summary
    try:
        on_epoch(last, answer)
    except Exception:
        log_swallowed(f"{watched.name}: on_epoch")
