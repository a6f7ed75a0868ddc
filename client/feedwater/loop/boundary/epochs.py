"""Begins and ends epochs: records them, and keeps a summary for the user."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable

from feedwater import guard
from feedwater.loop import dataloader
from feedwater.loop.change.tuning import KEEPS_ITERATOR
from feedwater.loop.measure.main_process_timer import MainProcessTimer
from feedwater.loop.measure.probe import Probe
from feedwater.loop.measure.recording import Recording
from feedwater.loop.watched import WatchedLoader
from feedwater.values import EpochSummary, LoaderSettings

AtBoundary = Callable[[WatchedLoader, object], object]
"""Takes the recommendation of the epoch that ended, of a watched loader and the loader itself."""
OnProgress = Callable[[Probe], None]
"""Asks for the recommendation of an epoch that still runs."""

PREVIEW_BATCHES = 100
"""Batches of an epoch from which a recommendation is requested before its end: the model needs as many."""


class EpochRecorder:
    """Records the epochs of one iterator, as its `feedwater.loop.measure.probe.Probe` reports them."""

    def __init__(
        self,
        watched: WatchedLoader,
        timer: MainProcessTimer | None = None,
        at_boundary: AtBoundary | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._watched = watched
        self._timer = timer
        self._at_boundary = at_boundary
        self._on_progress = on_progress

    def on_end(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """Close the epoch as complete."""
        if self._watched.recording.probe is probe:
            close(self._watched, True, teardown_ns, stamp_ns)

    def on_exception(self, probe: Probe, error: BaseException) -> None:
        """Keep that the loader raised an exception, of which a change may be the cause."""
        self._watched.tuning.note_error(error)

    def on_roll_over(self, probe: Probe, stamp_ns: int) -> None:
        """Close an epoch that has the loader's length, and begin the next one of the same iterator."""
        watched, recording = self._watched, self._watched.recording
        watched.tuning.add_obstacle(KEEPS_ITERATOR)
        recording.note_endless()
        close(watched, True, 0, stamp_ns, keeps_iterator=True)
        loader = watched.loader_in_use()
        if loader is not None and self._at_boundary is not None:
            self._at_boundary(watched, loader)
        iterator = recording.iterator() if recording.iterator is not None else None
        recording.begin_epoch(probe.head, None, worker_pids=_worker_pids(iterator))

    def on_progress(self, probe: Probe) -> None:
        """Request a recommendation before the end of a long epoch."""
        if self._watched.recording.probe is probe and self._on_progress is not None:
            self._on_progress(probe)

    def on_abandoned(self, probe: Probe) -> None:
        """Close the epoch, unless another one has begun."""
        if self._watched.recording.probe is probe:
            abandon(self._watched)

    def release(self) -> None:
        """Stop timing the loads of the main process."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()


def begin(
    watched: WatchedLoader,
    loader: object,
    iterator: object,
    asked_ns: int,
    iter_seconds: float,
    *,
    at_boundary: AtBoundary,
    on_progress: OnProgress,
) -> None:
    """Measure ``iterator`` from now on.

    Args:
        watched: The loader's state.
        loader: The loader that made the iterator.
        iterator: PyTorch's.
        asked_ns: When the iterator was requested, by ``perf_counter_ns``.
        iter_seconds: How long it took to make.
        at_boundary: Called where an endless iterator begins its next epoch.
        on_progress: Called some times a second after `PREVIEW_BATCHES`.
    """
    recording, length = watched.recording, dataloader.length_of(loader)
    timer = _timer(recording, iterator)
    recorder = EpochRecorder(watched, timer, at_boundary, on_progress)
    probe = _probe(recording, recorder, asked_ns)
    if timer is not None:
        probe.on_long_wait = timer.on_long_wait
        if recording.main_process.is_heavy:
            timer.on_long_wait(iterator, 0)
    if length and watched.dataset_kind == "map":
        probe.roll_over_after(length)
    probe.report_progress_after(PREVIEW_BATCHES)
    settings = dataloader.settings_of(loader)
    recording.begin_epoch(recording.head, settings, iter_seconds, _worker_pids(iterator))
    watched.tuning.note_iterator(int(getattr(iterator, "_base_seed", 0)), recording.epoch)
    recording.attach(probe, weakref.ref(iterator, functools.partial(_collected, watched, probe)), length)
    iterator._feedwater_probe = probe  # type: ignore[attr-defined]


def begin_plain(
    watched: WatchedLoader, settings: LoaderSettings, asked_ns: int, iter_seconds: float
) -> Probe:
    """Measure from now on an iterator that is not PyTorch's, and return its probe."""
    recording = watched.recording
    probe = _probe(recording, EpochRecorder(watched), asked_ns)
    recording.begin_epoch(recording.head, settings, iter_seconds)
    watched.tuning.note_iterator(0, recording.epoch)
    recording.attach(probe, None, None)
    return probe


def _probe(recording: Recording, recorder: EpochRecorder, asked_ns: int) -> Probe:
    assert recording.words is not None
    return Probe(recording.words, recording.head, recorder, asked_ns)


def abandon(watched: WatchedLoader, only: Probe | None = None) -> None:
    """Close the present epoch, if there is one; it is complete if all its batches came.

    Lightning counts batches, and does not call ``next()`` for the ``StopIteration`` after the last one.
    """
    probe = watched.recording.probe
    if probe is None or (only is not None and probe is not only):
        return
    probe.flush()
    close(watched, probe.is_whole, 0, probe.last_exit_ns())


def close(
    watched: WatchedLoader, complete: bool, teardown_ns: int, stamp_ns: int, *, keeps_iterator: bool = False
) -> None:
    """End the present epoch at ``stamp_ns``, ``teardown_ns`` of which went into ending it."""
    recording = watched.recording
    probe = recording.probe
    assert probe is not None
    recording.store_head(probe)
    device_starvation = recording.take_device_sums().starvation
    if not keeps_iterator:
        recording.release_probe(probe)
        if isinstance(probe.observer, EpochRecorder):
            probe.observer.release()
    watched.history.add(_summary(watched, probe, complete, teardown_ns, stamp_ns, device_starvation))
    recording.end_epoch(complete, teardown_ns, stamp_ns)
    if complete:
        watched.tuning.note_clean_epoch(recording.settings)


def so_far(watched: WatchedLoader, probe: Probe, now_ns: int) -> EpochSummary:
    """Return a summary of the present epoch, up to the last stored batch."""
    return _summary(watched, probe, False, 0, now_ns)


def _summary(
    watched: WatchedLoader,
    probe: Probe,
    complete: bool,
    teardown_ns: int,
    stamp_ns: int,
    device_starvation: float | None = None,
) -> EpochSummary:
    total_ns = max(0, stamp_ns - probe.asked_ns)
    step_ns = max(0, total_ns - probe.start_up_ns - probe.wait_ns - teardown_ns)
    return EpochSummary(
        epoch=watched.recording.epoch,
        settings=watched.recording.settings or LoaderSettings(0),
        batches=probe.batches,
        seconds=total_ns / 1e9,
        wait_seconds=probe.wait_ns / 1e9,
        step_seconds=step_ns / 1e9,
        start_up_seconds=probe.start_up_ns / 1e9,
        complete=complete,
        device_starvation=device_starvation,
        loader=watched.name,
    )


def _worker_pids(iterator: object) -> list[int]:
    pids = (getattr(worker, "pid", None) for worker in getattr(iterator, "_workers", ()))
    return [pid for pid in pids if pid]


def _timer(recording: Recording, iterator: object) -> MainProcessTimer | None:
    if getattr(iterator, "_num_workers", 0) or recording.words is None:
        return None
    return MainProcessTimer(recording.main_process, recording.words, recording.first_worker_ring)


def _collected(watched: WatchedLoader, probe: Probe, reference: weakref.ref[object]) -> None:
    """Close the epoch of an iterator that was deleted."""
    with guard.swallow("ending an abandoned epoch"):
        watched.recording.note_collected(probe)
        abandon(watched, probe)
