"""The epochs of a loader: their figures, the answers to them, and what was logged of them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace

from feedwater.values import Answer, EpochSummary, Mode, Recommendation

HISTORY_EPOCHS = 1000
"""Epochs remembered of one loader; beyond that the oldest go."""


@dataclass(eq=False, slots=True)
class History:
    """The epochs of one loader. Its fields are assigned in this module alone."""

    epochs: deque[EpochSummary] = field(default_factory=lambda: deque(maxlen=HISTORY_EPOCHS))
    unanswered: EpochSummary | None = None
    """The epoch that ended and that no recommendation was asked for yet."""
    recommendation: Recommendation | None = None
    """The last one; None before the first."""
    policy_mode: Mode | None = None
    """The mode that the sidecar's policy allows; None until it has said one."""
    is_connected: bool | None = None
    """The sidecar answered the last request; None before the first."""
    logged: set[object] = field(default_factory=set)
    """What was logged and is not repeated: recommendations with their outcome, advice, reasons."""
    refused_answers: Counter[str] = field(default_factory=Counter)
    """Answers that were nonsense, by cause (`feedwater.loop.boundary.answers.Refusal`)."""

    def add(self, summary: EpochSummary) -> None:
        """Keep an epoch that ended; a recommendation is to be asked for it."""
        self.epochs.append(summary)
        self.unanswered = summary

    def take_unanswered(self) -> EpochSummary | None:
        """Return the epoch that no recommendation was asked for yet, and forget that it is due."""
        summary, self.unanswered = self.unanswered, None
        return summary

    def keep_answer(self, summary: EpochSummary, answer: Answer) -> None:
        """Keep the answer to an epoch, and the verdict with the epoch that it is about."""
        self.policy_mode = answer.mode or self.policy_mode
        self.keep_recommendation(answer.recommendation)
        verdict = answer.recommendation.verdict if answer.recommendation is not None else ""
        if verdict and self.epochs and self.epochs[-1] is summary:
            self.epochs[-1] = replace(summary, verdict=verdict)

    def keep_recommendation(self, recommendation: Recommendation | None) -> None:
        """Keep a recommendation; None leaves the one before."""
        self.recommendation = recommendation or self.recommendation

    def count_refused(self, cause: str) -> None:
        """Count an answer that was nonsense."""
        self.refused_answers[cause] += 1

    def note_connection(self, is_connected: bool) -> bool | None:
        """Keep whether the sidecar answered; return what was known before."""
        before, self.is_connected = self.is_connected, is_connected
        return before

    def note_logged(self, *keys: object) -> bool:
        """Keep ``keys`` as logged; return whether one of them was not logged before."""
        is_new = not self.logged.issuperset(keys)
        self.logged.update(keys)
        return is_new
