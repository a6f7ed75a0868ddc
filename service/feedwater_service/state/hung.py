"""Whether workers make no progress although the loop waits for batches that they were asked for.

A trainer that writes a checkpoint for an hour takes no batch, and neither does one whose worker waits for a
lock for ever. The queue tells them apart: while the loop does something else, the workers finish every batch
that is outstanding, and idle.
"""

from __future__ import annotations

from feedwater_service.state.sessions import Session
from feedwater_service.state.traces import Trace


def hung_seconds(session: Session) -> float | None:
    """Return how long no batch has come although some are outstanding, as of the last report.

    Returns:
        0 where none is outstanding; None where that is not known.
    """
    if session.ended or not session.epochs or session.registration.dataset_kind != "map":
        # Whether a worker of an IterableDataset has more batches is not known.
        return None
    trace = session.epochs[-1]
    if not _is_whole(trace) or any(session.drops.values()):
        return None
    outstanding = outstanding_batches(trace, session.registration.batches_per_epoch)
    if outstanding is None:
        return None
    return max(0.0, session.heard_stamp_seconds - session.progress_stamp_seconds) if outstanding else 0.0


def outstanding_batches(trace: Trace, batches_per_epoch: int | None) -> int | None:
    """Return how many batches workers were asked for and have not made, as far as that is certain.

    Returns:
        None without workers, where batches are out of order, and where loads are not measured.
    """
    settings, made = trace.settings, sum(trace.made_by_worker)
    if not settings.num_workers or not settings.in_order or trace.dropped or (trace.next_batch and not made):
        return None
    return max(_behind_others(trace.made_by_worker), _requested(trace, batches_per_epoch) - made)


def _behind_others(made: list[int]) -> int:
    """Return by how many batches workers are behind the others: the loader asks them in turn.

    Example: of two workers one has made 8 batches, the other 5. When the first was asked for its eighth, the
    other had been asked for its seventh: 2 are outstanding.
    """
    most = max(made, default=0)
    return sum(max(0, most - 1 - count) for count in made)


def _requested(trace: Trace, batches_per_epoch: int | None) -> int:
    """Return how many batches were requested at least; 0 where the length of the epoch is not known."""
    if not batches_per_epoch:
        return 0
    # The batch that the loop holds is reported only when it asks for the next one.
    return min(trace.next_batch + 1 + trace.settings.queue_batches, batches_per_epoch)


def _is_whole(trace: Trace) -> bool:
    """Say whether an epoch is running and was reported from its beginning.

    An epoch that begins without ``iter()`` inherits the queues of the epoch before it.
    """
    return (
        trace.begin_stamp_seconds is not None and trace.iter_seconds > 0 and trace.end_stamp_seconds is None
    )
