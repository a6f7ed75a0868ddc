"""What the user hears of a loader: a line where an epoch brings news, and the call of ``on_epoch``."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Iterable, Sequence

from feedwater.loop import process
from feedwater.loop.boundary.decision import Decision
from feedwater.loop.boundary.line import MAX_LINE, MAX_NAME, MAX_WHOLE, Reason, clean, compose, cut
from feedwater.loop.boundary.registration import effective_mode
from feedwater.loop.log import absorbed, heard_level, is_first, say, say_once
from feedwater.loop.watched import Mark
from feedwater.settings import DEFAULT_ADDRESS
from feedwater.values import Answer, EpochSummary, LoaderSettings, Mode, Outcome, Recommendation

DONE = {
    Outcome.ADVISED: " (advice)",
    Outcome.REFUSED: " (not applied)",
    Outcome.FAILED: " (failed, taken back)",
}
"""What is added to a recommendation that is not simply in use from now on."""
DETAIL = {Outcome.ADVISED: "advice only: ", Outcome.REFUSED: "not applied: ", Outcome.FAILED: "failed: "}
"""What stands before the reason for that in a line of its own."""
HINT = "; start the script with `feedwater run train.py` to have one"
UNJUDGED_EPOCHS = 2
"""Without a recommendation, after which it is said why: the first epoch of many loaders is a short one, as
Lightning's sanity check."""


def note_connection(mark: Mark, answer: Answer) -> None:
    """Say once that the sidecar is away, or back; an answer that is late tells neither."""
    if answer.late:
        why = f"no answer from the sidecar this time ({clean(answer.reason).rstrip('.')})"
        say_once("late", f"{why}; it is asked again after the next epoch", _level(logging.INFO))
        return
    if answer.connected == mark.is_connected or (not answer.address and not answer.connected):
        return
    was, mark.is_connected = mark.is_connected, answer.connected
    if answer.connected:
        say(
            f"{mark.name}: connected to the sidecar at {answer.address}",
            logging.INFO if was is False else logging.DEBUG,
        )
        return
    count = mark.began_with.num_workers if mark.began_with is not None else 0
    say(
        f"sidecar at {answer.address} unavailable; training continues with num_workers={count}"
        f"{_hint(answer.address)}",
        logging.WARNING if was else logging.INFO,
    )


def _hint(address: str) -> str:
    """Return, once, how to have a sidecar; empty in a pod, and where it was meant to be elsewhere."""
    # Under `feedwater run`, and where the client was brought into a pod, that path is there.
    is_injected = "inject/site" in os.environ.get("PYTHONPATH", "")
    is_in_pod = is_injected or "KUBERNETES_SERVICE_HOST" in os.environ
    return HINT if not is_in_pod and address == DEFAULT_ADDRESS and is_first("hint") else ""


def log_decision(mark: Mark, summary: EpochSummary, made: Recommendation, decision: Decision) -> None:
    """Say what the epoch was like, what is recommended, and why it is not done if it is not."""
    outcome = decision.outcome
    is_change = outcome in (Outcome.APPLIED, Outcome.FAILED)
    level = _level(logging.INFO, is_change) if _is_news(mark, made, decision) else logging.DEBUG
    cause, advice = _cause(made), _advice(made)
    detail = Reason(decision.detail, True, DETAIL.get(outcome, ""))
    reasons = [*advice, *cause] if outcome is Outcome.UNCHANGED else [*cause, *advice]
    text = f"{made.action}{DONE.get(outcome, '')}" if made.action else f"{detail.prefix}{made.sentence}"
    _say_epoch(mark, summary, text, level, [detail, *reasons])
    if outcome is Outcome.APPLIED and mark.dataset_kind == "map":
        say_once(
            "streams",
            "samples and their order stay the same; random numbers drawn in workers depend on their count",
            _level(logging.INFO, is_change),
        )


def log_preview(mark: Mark, summary: EpochSummary, made: Recommendation) -> None:
    """Say what an epoch that still runs shows: the first time, and when other settings are recommended.

    Args:
        mark: Of the loader.
        summary: The epoch so far.
        made: What the sidecar makes of it; nothing is done with it before the epoch's end.
    """
    is_news = made.settings not in _settings_said(mark)
    mark.said.add((made.settings, "preview"))
    cause, advice = _cause(made), _advice(made)
    when = _when(mark, summary) if made.changes else ""
    level = _level(logging.INFO) if is_news else logging.DEBUG
    reasons = [*cause, *advice] if made.changes else [*advice, *cause]
    if made.action:
        text = f"{made.action} ({when})" if when else made.action
    else:
        text = f"{when}: {made.sentence}" if when else made.sentence
    _say_epoch(mark, summary, text, level, reasons, f", batch {summary.batches}")


def _when(mark: Mark, summary: EpochSummary) -> str:
    """Return from when on the advice in the midst of an epoch could hold."""
    is_tunable = mark.can_apply and (mark.dataset_kind == "map" or mark.allow_workers)
    if not is_tunable:
        return "advice, at the next start"
    if effective_mode(mark) is not Mode.AUTO:
        return "advice"
    # Many loops over a whole corpus have one epoch alone.
    return "from the next epoch" if summary.epoch > 0 else "from the next epoch or start"


def log_not_judged(mark: Mark, summary: EpochSummary, reason: str) -> None:
    """Say once why a loader gets no recommendation, after its second epoch without one.

    Args:
        mark: Of the loader.
        summary: The epoch that ended. One of 0 or 1 batches is a look at the data, which does not count.
        reason: The sidecar's own, a full sentence; not that it did not answer.
    """
    if mark.recommendation is not None or summary.batches < 2:
        return
    before = sum(("not judged", number) in mark.said for number in range(UNJUDGED_EPOCHS))
    mark.said.add(("not judged", before))
    level = _level(logging.INFO) if before == UNJUDGED_EPOCHS - 1 else logging.DEBUG
    _say_epoch(mark, summary, "nothing is recommended", level, [Reason(reason, True)])


def log_never_iterated(mark: Mark) -> None:
    """Say once that nothing is measured of a loader, because something else is iterated in its place."""
    if "never iterated" in mark.said:
        return
    mark.said.add("never iterated")
    level = _level(logging.WARNING)
    _introduce(mark, level)
    say(
        f"{_name(mark)}: nothing is measured, its batches do not pass through Feedwater; "
        "give feedwater.watch the loader that the training loop iterates",
        level,
    )


def log_epoch(mark: Mark, summary: EpochSummary, text: str, level: int, reasons: Sequence[str] = ()) -> None:
    """Say one line of an epoch: of the reasons as many as fit, the first first; the others for who debugs."""
    _say_epoch(mark, summary, text, level, [Reason(reason) for reason in reasons])


def _level(level: int, is_change: bool = False) -> int:
    """Return the level at which this rank says it: rank 0 speaks for all, and a change is always heard."""
    if process.settings().rank > 0:
        return logging.DEBUG
    return heard_level() if is_change and level == logging.INFO else level


def _cause(made: Recommendation) -> list[Reason]:
    """Return why, a sentence; nothing from an older sidecar, whose one sentence holds the cause as well."""
    return [Reason(f"{made.cause}.")] if made.cause else []


def _advice(made: Recommendation) -> list[Reason]:
    return [Reason(text, True, topic=topic) for text, topic in zip(made.advice, _topics(made), strict=True)]


def _topics(made: Recommendation) -> list[str]:
    """Return what each advice is about; from an older sidecar, the verdict and the place of the advice."""
    if len(made.advice_topics) == len(made.advice):
        return list(made.advice_topics)
    return [f"{made.verdict} {place}" for place in range(len(made.advice))]


def _is_news(mark: Mark, made: Recommendation, decision: Decision) -> bool:
    """Whether it was not said before: advice that differs in its figures alone is the same every epoch."""
    said: set[object] = {("advice", topic) for topic in _topics(made)}
    if decision.outcome is not Outcome.UNCHANGED:
        said.add((made.settings, decision))
    is_new = not said <= mark.said
    mark.said |= said
    return is_new or decision.outcome is Outcome.APPLIED


def _settings_said(mark: Mark) -> set[LoaderSettings]:
    return {said[0] for said in mark.said if isinstance(said, tuple) and isinstance(said[0], LoaderSettings)}


def _say_epoch(
    mark: Mark, summary: EpochSummary, text: str, level: int, reasons: Iterable[Reason], where: str = ""
) -> None:
    """Say the line; what must be whole and does not fit has a line of its own, once for each loader."""
    if level < logging.INFO and not logging.getLogger("feedwater").isEnabledFor(level):
        return
    of = f"{_name(mark)}: epoch {summary.epoch}{where}"
    waited = waiting(summary, mark.uses_cuda)
    start = f"{of}: {summary.batches_per_second:.3g} batches/s, {waited}: {clean(text)}"
    line, left = compose(
        start, [reason._replace(text=clean(reason.text)) for reason in reasons if reason.text]
    )
    _introduce(mark, level)
    say(line, level)
    for reason in left:
        if level >= logging.INFO and reason.is_whole and _is_first(mark, reason):
            say(cut(f"{_name(mark)}: {reason.prefix}{reason.text}", MAX_WHOLE), level)
        elif logging.getLogger("feedwater").isEnabledFor(logging.DEBUG):
            for part in textwrap.wrap(reason.text, MAX_LINE - len(of) - 2):
                say(f"{of}: {part}", logging.DEBUG)


def _is_first(mark: Mark, reason: Reason) -> bool:
    key = ("whole", reason.topic or reason.text)
    is_first = key not in mark.said
    mark.said.add(key)
    return is_first


def _introduce(mark: Mark, level: int) -> None:
    """Say, before the first line of a loader that the user has not named, which one it is."""
    if level < logging.INFO or mark.named_by_user or not mark.label or "label" in mark.said:
        return
    mark.said.add("label")
    say(cut(f"{_name(mark)} is {clean(mark.label)}", MAX_LINE), level)


def _name(mark: Mark) -> str:
    return cut(clean(mark.name), MAX_NAME)


def waiting(summary: EpochSummary, uses_cuda: bool) -> str:
    """Return who waited, and for how much of the epoch: where CUDA is used, the host's wait is no loss."""
    if summary.device_starvation is not None:
        return f"device waiting {summary.device_starvation:.0%}"
    return f"{'host wait' if uses_cuda else 'waiting'} {summary.starvation:.0%}"


def call_on_epoch(mark: Mark, summary: EpochSummary, answer: Answer) -> None:
    """Hand the epoch and the answer to the user's callback, whose errors must not end the training."""
    if mark.on_epoch is None:
        return
    last = mark.history[-1] if mark.history and mark.history[-1].epoch == summary.epoch else summary
    try:
        mark.on_epoch(last, answer)
    except Exception:
        absorbed(f"{mark.name}: on_epoch")
