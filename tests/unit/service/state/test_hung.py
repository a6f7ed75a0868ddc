"""Hung workers: those that make none of the outstanding batches, told from a loop that asks for none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.types import LoaderSettings
from feedwater_service.state.hung import hung_seconds, outstanding_batches
from feedwater_service.state.sessions import Session, State
from feedwater_service.state.traces import Trace

Send = Callable[[pb.ReportRequest], Session]
Make = Callable[..., pb.ReportRequest]


def _trace(made: list[int], reported: int = 0, **settings: object) -> Trace:
    trace = Trace(0, LoaderSettings(**{"num_workers": len(made), "prefetch_factor": 2} | settings))  # type: ignore[arg-type]
    trace.made_by_worker, trace.next_batch, trace.received_batches = made, reported, reported
    return trace


@pytest.mark.parametrize(
    ("made", "reported", "length", "expected"),
    [
        # The loop holds batch 10, and 2 workers x 2 batches are ready: 10 + 1 + 4.
        ([8, 7], 10, 100, 0),
        # Batch 11 is worker 1's: it has made 5, and 2 are outstanding; worker 0 has made all of its own.
        ([8, 5], 10, 100, 2),
        # The same, ten batches earlier in the reports: stamps wait for the next batch.
        ([8, 5], 0, 100, 2),
        # The end is not known: only what workers are behind the others is outstanding.
        ([8, 5], 10, None, 2),
        ([8, 8], 14, None, 0),
        # A loader that was resumed may begin with any worker.
        ([7, 8], 10, 100, 0),
        # One worker has no other to be compared with.
        ([12], 10, 100, 1),
        ([13], 10, 100, 0),
        # The epoch has 12 batches: no more are asked for.
        ([6, 6], 10, 12, 0),
        ([6, 5], 10, 12, 1),
        # Nothing yet: all workers are caught.
        ([0, 0], 0, 100, 5),
    ],
)
def test_outstanding_is_what_was_asked_for_and_not_made(
    made: list[int], reported: int, length: int | None, expected: int
) -> None:
    """Workers get batches in turn, two each ahead of the loop."""
    assert outstanding_batches(_trace(made, reported), length) == expected


def test_outstanding_is_unknown_where_counts_say_nothing() -> None:
    """No workers, batches out of order, batches without loads, batches lost on the way."""
    assert outstanding_batches(_trace([], num_workers=0), None) is None
    assert outstanding_batches(_trace([8, 5], 10, in_order=False), None) is None
    assert outstanding_batches(_trace([0, 0], 10), None) is None
    lossy = _trace([8, 5], 10)
    lossy.received_batches = 9
    assert outstanding_batches(lossy, None) is None


def test_a_loader_hangs_while_reports_bring_no_batch(
    state: State, register: Callable[..., Session], send: Send, report: Make
) -> None:
    """40 batches are reported and 40 made: of the 45 that were asked for 5 are outstanding, for 700 s."""
    session = register(batches_per_epoch=100)
    send(report(session.loader_id, 1))
    assert hung_seconds(session) == 0
    state.clock.now += 700  # type: ignore[attr-defined]
    send(pb.ReportRequest(loader_id=session.loader_id, sequence=2))
    assert hung_seconds(session) == 700
    message = report(session.loader_id, 3, first=40, count=2, end=True)
    send(message)
    assert hung_seconds(session) is None


@pytest.mark.parametrize(
    "changed", [{"dataset_kind": pb.DATASET_KIND_ITERABLE}, {"dataset_kind": pb.DATASET_KIND_NONE}]
)
def test_iterable_datasets_are_not_judged(
    state: State, register: Callable[..., Session], send: Send, report: Make, changed: dict[str, object]
) -> None:
    """A worker whose shards are used up has nothing outstanding, and looks the same."""
    session = register(**changed)
    send(report(session.loader_id, 1))
    assert hung_seconds(session) is None


def test_losses_in_measurement_are_not_hung_workers(
    register: Callable[..., Session], send: Send, report: Make
) -> None:
    """Loads that were overwritten before they were read were made all the same."""
    session = register()
    message = report(session.loader_id, 1)
    message.drops.add(cause=2, total=3)
    send(message)
    assert hung_seconds(session) is None


def test_an_epoch_that_goes_on_with_the_queues_of_another_is_not_judged(
    register: Callable[..., Session], send: Send, report: Make
) -> None:
    """An iterator that never ends has no `iter()` between epochs: what was made for which cannot be told."""
    session = register(batches_per_epoch=100)
    message = report(session.loader_id, 1)
    message.begins[0].iter_seconds = 0
    send(message)
    assert hung_seconds(session) is None
