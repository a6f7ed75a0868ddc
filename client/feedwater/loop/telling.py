"""What the user hears at a boundary: at most one line, and the call of ``on_epoch``."""

from __future__ import annotations

import logging

from feedwater.loop import process
from feedwater.loop.deciding import Decision
from feedwater.loop.marks import Mark
from feedwater.loop.say import absorbed, say, say_once
from feedwater.values import Answer, EpochSummary, Outcome, Recommendation


def note_connection(mark: Mark, answer: Answer) -> None:
    """Say once that the sidecar is away, or back."""
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
        f"sidecar at {answer.address} unavailable; training continues with num_workers={count}",
        logging.WARNING if was else logging.INFO,
    )


def log_decision(mark: Mark, summary: EpochSummary, made: Recommendation, decision: Decision) -> None:
    """Say what the epoch was like, what is recommended, and why it is not done if it is not."""
    said = (made.settings, decision, made.advice)
    has_news = decision.outcome is not Outcome.UNCHANGED or bool(made.advice)
    # The same advice epoch after epoch is said once.
    level = logging.INFO if has_news and mark.last_said != said else logging.DEBUG
    mark.last_said = said
    text = " ".join([made.sentence, *made.advice])
    if decision.outcome is Outcome.ADVISED:
        text = f"{text} (advice)"
    if decision.detail:
        text = f"{text} Not applied: {decision.detail}"
    log_epoch(mark, summary, text, level)
    if decision.outcome is Outcome.APPLIED and mark.dataset_kind == "map":
        say_once(
            "streams",
            "samples and their order stay the same; random numbers drawn in workers depend on their count",
            logging.INFO,
        )


def log_epoch(mark: Mark, summary: EpochSummary, text: str, level: int) -> None:
    """Say one line of an epoch."""
    if level == logging.INFO and process.settings().rank > 0:
        level = logging.DEBUG  # Rank 0 speaks for all.
    if level < logging.INFO and not logging.getLogger("feedwater").isEnabledFor(level):
        return
    say(
        f"{mark.name}: epoch {summary.epoch}: {summary.batches} batches in {summary.seconds:.1f} s, "
        f"{waiting(summary, mark.uses_cuda)}, num_workers={summary.settings.num_workers}: {text}",
        level,
    )


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
