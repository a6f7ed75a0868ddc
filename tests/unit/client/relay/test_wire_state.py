"""The sidecar's state from the wire: all that it tells, and nothing that it does not."""

from __future__ import annotations

from feedwater.relay.views import WorkerMemory
from feedwater.relay.wire import pod_view
from feedwater.v1 import feedwater_pb2 as pb


def test_fields_that_an_older_sidecar_lacks_are_absent() -> None:
    """Absent is None or empty, never zero."""
    (view,) = pod_view(pb.WatchResponse(loaders=[pb.LoaderState(loader="train")])).loaders
    assert (view.container, view.stalled_seconds, view.last_seen_seconds) == (None, None, None)
    assert (view.initial_settings, view.batches_per_epoch, view.uncapped_num_workers) == (None, None, None)
    assert (view.workers, view.decisions, view.recent_wait_seconds, view.frozen) == ((), (), (), "")
    assert (view.reason, view.reason_code) == ("", "")


def test_message_of_an_older_sidecar_has_no_version_and_no_time() -> None:
    """Neither did exist from the beginning."""
    pod = pod_view(pb.WatchResponse())
    assert (pod.loaders, pod.version, pod.time_seconds) == ((), "", None)


def test_everything_told_is_read() -> None:
    """Worker 0 is a worker, a first outcome is none, an unknown verdict is UNKNOWN."""
    state = pb.LoaderState(loader="train", stalled_seconds=0.0, last_seen_seconds=7.0, frozen="It died.")
    state.workers.add(worker=0, rss_bytes=3)
    state.container.memory_bytes = 5
    state.epochs.add(epoch=1, cpu_used_cores=0.5, throttled_ratio=0.0)
    state.decisions.add(epoch=1, detail="A file is open.", outcome=pb.OUTCOME_REFUSED)
    state.decisions.add(epoch=2)
    state.recent.wait_seconds.append(0.5)
    state.none.reason, state.none.message = pb.NO_RECOMMENDATION_REASON_FROZEN, "It died."
    (view,) = pod_view(pb.WatchResponse(loaders=[state], version="9", time_seconds=8.0)).loaders
    assert view.workers == (WorkerMemory(0, 3),)
    assert view.container is not None
    assert (view.container.memory_bytes, view.container.stamp_seconds) == (5, 0)
    assert (view.epochs[0].cpu_used_cores, view.epochs[0].throttled_ratio) == (0.5, 0.0)
    assert view.epochs[0].summary.loader == "train"
    assert [(d.outcome, d.settings, d.verdict) for d in view.decisions] == [
        ("refused", None, "UNKNOWN"),
        ("", None, "UNKNOWN"),
    ]
    assert (view.reason, view.reason_code) == ("It died.", "FROZEN")
    assert (view.recent_wait_seconds, view.stalled_seconds, view.frozen) == ((0.5,), 0.0, "It died.")
