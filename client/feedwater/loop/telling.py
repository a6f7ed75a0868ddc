"""What the user hears at a boundary: at most one line, and the call of ``on_epoch``."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Sequence

from feedwater.loop import process
from feedwater.loop.deciding import Decision
from feedwater.loop.marks import Mark
from feedwater.loop.say import absorbed, say, say_once
from feedwater.values import Answer, EpochSummary, Outcome, Recommendation

MAX_LINE = 160 - len("feedwater: ")
"""Characters of a line, so that it has 160 with what stands before it on stderr: two lines of a terminal."""
MAX_NAME = 32
"""Characters of a loader's name, so that there is room for what is said of it."""
DONE = {
    Outcome.ADVISED: " (advice)",
    Outcome.REFUSED: " (not applied)",
    Outcome.FAILED: " (failed, taken back)",
}
"""What is added to a recommendation that is not simply in use from now on."""
SHARE = re.compile(r"^\d+% (?:host wait|(?:device )?starvation), ")
"""How the sidecar's reasons begin."""
FIGURES = re.compile(r"\d[\d.,]*")
"""In advice: its gain is another each epoch."""


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
    level = logging.INFO if _is_news(mark, made, decision) else logging.DEBUG
    action, _, cause = made.sentence.partition(": ")
    # The line says it already, in its own words.
    cause = SHARE.sub("", cause)
    reasons = [cause, *made.advice] if decision.outcome is not Outcome.UNCHANGED else [*made.advice, cause]
    log_epoch(mark, summary, f"{action}{DONE.get(decision.outcome, '')}", level, [decision.detail, *reasons])
    if decision.outcome is Outcome.APPLIED and mark.dataset_kind == "map":
        say_once(
            "streams",
            "samples and their order stay the same; random numbers drawn in workers depend on their count",
            logging.INFO,
        )


def _is_news(mark: Mark, made: Recommendation, decision: Decision) -> bool:
    """Whether it was not said before: advice that differs in its figures alone is the same every epoch."""
    said: set[object] = {FIGURES.sub("", text) for text in made.advice}
    if decision.outcome is not Outcome.UNCHANGED:
        said.add((made.settings, decision))
    is_new = not said <= mark.said
    mark.said |= said
    return is_new or decision.outcome is Outcome.APPLIED


def log_epoch(mark: Mark, summary: EpochSummary, text: str, level: int, reasons: Sequence[str] = ()) -> None:
    """Say one line of an epoch: of the reasons as many as fit, the first first; the others for who debugs."""
    if level == logging.INFO and process.settings().rank > 0:
        level = logging.DEBUG  # Rank 0 speaks for all.
    if level < logging.INFO and not logging.getLogger("feedwater").isEnabledFor(level):
        return
    of = f"{_cut(_clean(mark.name), MAX_NAME)}: epoch {summary.epoch}"
    waited = waiting(summary, mark.uses_cuda)
    start = f"{of}: {summary.batches_per_second:.3g} batches/s, {waited}: {_clean(text)}"
    line, left = _composed(start, [_clean(reason) for reason in reasons if reason])
    say(line, level)
    if logging.getLogger("feedwater").isEnabledFor(logging.DEBUG):
        for reason in left:
            for part in textwrap.wrap(reason, MAX_LINE - len(of) - 2):
                say(f"{of}: {part}", logging.DEBUG)


def _composed(start: str, reasons: Sequence[str]) -> tuple[str, list[str]]:
    """Return the line, and the reasons that it does not hold whole."""
    line, left = start.rstrip("."), []
    for at, reason in enumerate(reasons):
        longer = f"{line}: {reason}" if at == 0 else f"{line} {reason}"
        # Half a reason is better than none, but not after another.
        if len(longer) <= MAX_LINE or at == 0:
            line = longer
        if len(longer) > MAX_LINE:
            left.append(reason)
    return _cut(line if reasons else start, MAX_LINE), left


def _cut(text: str, longest: int) -> str:
    """Return ``text`` in at most ``longest`` characters, cut after a word where one ends."""
    if len(text) <= longest:
        return text
    kept = text[: longest - 1]
    at = kept.rfind(" ")
    return kept[: at if at > longest // 2 else None].rstrip(" ,;:.(") + "…"


def _clean(text: str) -> str:
    # A name with a line end would make two lines of one.
    return "".join(c if c.isprintable() else "?" for c in text)


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
