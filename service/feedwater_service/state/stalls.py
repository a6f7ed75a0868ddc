"""Whether workers stand still although the loop waits for what they owe.

A trainer that writes a checkpoint for an hour gets no batch, and neither does one whose worker is caught in a
lock. What tells them apart is the queue: while the loop does something else, workers make all that they were
asked for, and rest.
"""

from __future__ import annotations

from feedwater_service.state.sessions import Session
from feedwater_service.state.traces import Trace


def stalled_seconds(session: Session) -> float | None:
    """Return how long no batch came although workers owe some, as of the last report.

    Returns:
        0 where they owe none; None where that cannot be told.
    """
    if session.ended or not session.epochs or session.registration.dataset_kind != "map":
        # Of an iterable dataset's worker nobody knows whether it has more to give.
        return None
    trace = session.epochs[-1]
    if not _is_whole(trace) or any(session.drops.values()):
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
    return max(_owed_in_turn(trace.made), _owed_to_queue(trace, batches_per_epoch) - made)


def _owed_in_turn(made: list[int]) -> int:
    """Return what workers lag behind the others by: they are asked in turn, beginning with any of them.

    Example: of two workers one has made 8, the other 5: that one was asked for its seventh before.
    """
    most = max(made, default=0)
    return sum(max(0, most - 1 - count) for count in made)


def _owed_to_queue(trace: Trace, batches_per_epoch: int | None) -> int:
    """Return how many batches were asked for, by what was reported; 0 where the epoch's end is not known."""
    if not batches_per_epoch:
        return 0
    # The batch that the loop holds is reported when it asks for the next.
    return min(trace.expected + 1 + trace.settings.queue_batches, batches_per_epoch)


def _is_whole(trace: Trace) -> bool:
    """Say whether an epoch runs and was seen from its begin.

    One that begins without ``iter()`` goes on with the queues of the one before it.
    """
    return trace.begun is not None and trace.iter_seconds > 0 and trace.ended is None
