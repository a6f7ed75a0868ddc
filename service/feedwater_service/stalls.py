"""Whether workers stand still although the loop waits for what they owe.

A trainer that writes a checkpoint for an hour gets no batch, and neither does one whose worker is caught in a
lock. What tells them apart is the queue: while the loop does something else, workers make all that they were
asked for, and rest.
"""

from __future__ import annotations

from feedwater_service.sessions import Session
from feedwater_service.traces import Trace


def stalled_seconds(session: Session) -> float | None:
    """Return how long no batch came although workers owe some, as of the last report.

    Returns:
        0 where they owe none; None where that cannot be told.
    """
    if session.ended or not session.epochs or session.registration.dataset_kind != "map":
        # Of an iterable dataset's worker nobody knows whether it has more to give.
        return None
    trace = session.epochs[-1]
    if trace.begun is None or trace.ended is not None or any(session.drops.values()):
        return None
    owes = owed(trace, session.registration.batches_per_epoch)
    if owes is None:
        return None
    return max(0.0, session.last_seen - session.progressed) if owes else 0.0


def owed(trace: Trace, batches_per_epoch: int | None) -> int | None:
    """Return the batches that workers were asked for and did not make, as far as that is certain.

    Returns:
        None without workers, where batches are out of order, and where loads are not measured.
    """
    settings, made = trace.settings, sum(trace.made)
    if not settings.num_workers or not settings.in_order or trace.dropped or (trace.expected and not made):
        return None
    # The batch that the loop holds is reported when it asks for the next.
    by_queue = trace.expected + 1 + settings.queue_batches
    if batches_per_epoch:
        by_queue = min(by_queue, batches_per_epoch)
    return max(0, by_queue - made, _asked(trace.made) - made)


def _asked(made: list[int]) -> int:
    """Return how many batches were asked for at least: workers get them in turn.

    Example: of two workers the first has made 5, so that the second was asked for its fourth before that:
    9 in all.
    """
    return max(
        ((count - 1) * len(made) + worker + 1 for worker, count in enumerate(made) if count), default=0
    )
