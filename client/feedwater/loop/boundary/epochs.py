"""Begin and end of epochs: what is told to the transport, and the summary kept for the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from feedwater import ring
from feedwater.loop import dataloader, log
from feedwater.loop.measure.main_process_loads import OwnLoads
from feedwater.loop.measure.probe import Probe
from feedwater.loop.watched import Preview
from feedwater.values import EpochSummary, LoaderSettings

if TYPE_CHECKING:
    from feedwater.loop.watched import Mark

AtBoundary = Callable[["Mark", object], None]
"""Takes the recommendation of the epoch that ended; called with the mark and the loader."""
FarAlong = Callable[["Mark", Probe], None]
"""Asks for the recommendation of an epoch that still runs."""

PREVIEW_BATCHES = 100
"""Batches after which an epoch is looked at before its end: the sidecar's model asks for as many."""


class Keeper:
    """Keeps the epochs of one mark; `feedwater.loop.measure.probe.Probe` tells it what happened."""

    def __init__(
        self,
        mark: Mark,
        own_loads: OwnLoads | None = None,
        at_boundary: AtBoundary | None = None,
        far_along: FarAlong | None = None,
    ) -> None:
        self._mark = mark
        self._own_loads = own_loads
        self._at_boundary = at_boundary
        self._far_along = far_along

    def finished(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """Close the epoch as complete."""
        if self._mark.probe is probe:
            close(self._mark, True, teardown_ns, stamp_ns)

    def failed(self, probe: Probe, error: BaseException) -> None:
        """Clear the probation on Ctrl-C, and keep it on anything else that left the loader."""
        record = self._mark.probation
        if record is None:
            return
        if isinstance(error, KeyboardInterrupt):
            self._mark.probation = None
            record.clear()
        else:
            record.is_tainted = True

    def rolled_over(self, probe: Probe, stamp_ns: int) -> None:
        """Close an epoch by its length, and begin the next of the same iterator."""
        mark = self._mark
        mark.can_apply, mark.preview, mark.is_endless = False, Preview(), True
        close(mark, True, 0, stamp_ns, keeps_iterator=True)
        loader = mark.loader() if mark.loader is not None else None
        if loader is not None and self._at_boundary is not None:
            self._at_boundary(mark, loader)
        mark.epoch += 1
        iterator = mark.iterator() if mark.iterator is not None else None
        _tell_begin(mark, iterator, 0.0, probe.head)

    def far_along(self, probe: Probe) -> None:
        """Say what a long epoch says before its end."""
        if self._mark.probe is probe and self._far_along is not None:
            self._far_along(self._mark, probe)

    def abandoned(self, probe: Probe) -> None:
        """Close the epoch as incomplete, unless another has begun."""
        if self._mark.probe is probe:
            abandon(self._mark)

    def release(self) -> None:
        """Let go of what the iterator's loads were timed with."""
        if self._own_loads is not None:
            self._own_loads.stop()
            self._own_loads.close()


def begin(
    mark: Mark,
    loader: object,
    iterator: object,
    asked_ns: int,
    iter_seconds: float,
    *,
    at_boundary: AtBoundary,
    far_along: FarAlong,
) -> None:
    """Count and store from now on what ``iterator`` does.

    Args:
        mark: Of the loader.
        loader: The loader that made the iterator.
        iterator: PyTorch's.
        asked_ns: When the iterator was asked for, by ``perf_counter_ns``.
        iter_seconds: What making it took.
        at_boundary: Called where an iterator without an end begins its next epoch.
        far_along: Called some times a second after `PREVIEW_BATCHES`.
    """
    assert mark.words is not None
    mark.epoch += 1
    mark.is_fresh = False
    own_loads = _own_loads(mark, iterator)
    probe = Probe(mark.words, mark.head, Keeper(mark, own_loads, at_boundary, far_along), asked_ns)
    if own_loads is not None:
        probe.on_long_wait = own_loads.long_wait
        if mark.is_loading_heavy:
            own_loads.long_wait(iterator, 0)
    length = dataloader.length_of(loader) if mark.dataset_kind == "map" else None
    if length:
        probe.roll_after(length)
    mark.preview = Preview()
    probe.look_after(PREVIEW_BATCHES)
    mark.base_seed = int(getattr(iterator, "_base_seed", 0))
    mark.began_with = dataloader.settings_of(loader)
    _tell_begin(mark, iterator, iter_seconds, mark.head)
    mark.probe, mark.iterator = probe, weakref.ref(iterator, lambda _: _collected(mark, probe))
    _watch_device(mark, probe, dataloader.length_of(loader))
    iterator._feedwater_probe = probe  # type: ignore[attr-defined]


def begin_plain(mark: Mark, settings: LoaderSettings, asked_ns: int, iter_seconds: float) -> Probe:
    """Count and store from now on what an iterator does that is no ``DataLoader``'s."""
    assert mark.words is not None
    mark.epoch += 1
    mark.is_fresh = False
    probe = mark.probe = Probe(mark.words, mark.head, Keeper(mark), asked_ns)
    mark.began_with = settings
    _tell_begin(mark, None, iter_seconds, mark.head)
    _watch_device(mark, probe, None)
    return probe


def _watch_device(mark: Mark, probe: Probe, batches: int | None) -> None:
    if mark.device is not None:
        probe.device = mark.device
        mark.device.begin(probe, batches)


def abandon(mark: Mark, only: Probe | None = None) -> None:
    """Close the present epoch, if there is one: as incomplete, unless all its batches came.

    Lightning counts, and never asks for the ``StopIteration`` after the last batch.
    """
    probe = mark.probe
    if probe is None or (only is not None and probe is not only):
        return
    probe.fold()
    close(mark, probe.is_whole, 0, probe.last_exit_ns())


def close(
    mark: Mark, complete: bool, teardown_ns: int, stamp_ns: int, *, keeps_iterator: bool = False
) -> None:
    """End the present epoch at ``stamp_ns``, ``teardown_ns`` of which went into ending it."""
    probe = mark.probe
    assert probe is not None
    assert mark.transport is not None
    mark.head = probe.head
    device_starvation = mark.device.turn().starvation if mark.device is not None else None
    if not keeps_iterator:
        _let_go(mark, probe)
    summary = _summary(mark, probe, complete, teardown_ns, stamp_ns)
    mark.unanswered = summary = replace(summary, device_starvation=device_starvation)
    mark.history.append(summary)
    mark.ended_ns = stamp_ns
    mark.transport.end_epoch(mark.key, mark.epoch, mark.head, complete, teardown_ns / 1e9, stamp_ns)
    if complete:
        _passed(mark)


def so_far(mark: Mark, probe: Probe, now_ns: int) -> EpochSummary:
    """Return the running epoch, as far as its stamps are stored."""
    return _summary(mark, probe, False, 0, now_ns)


def _let_go(mark: Mark, probe: Probe) -> None:
    iterator = mark.iterator() if mark.iterator is not None else None
    if iterator is not None:
        iterator._feedwater_probe = None  # type: ignore[attr-defined]
    probe.close()
    if mark.device is not None:
        mark.device.stop()
    if isinstance(probe.keeper, Keeper):
        probe.keeper.release()
    mark.probe = mark.iterator = None


def _passed(mark: Mark) -> None:
    if mark.began_with is not None:
        mark.proven_workers = max(mark.proven_workers, mark.began_with.num_workers)
    record, mark.probation = mark.probation, None
    if record is not None:
        record.clear()


def _summary(mark: Mark, probe: Probe, complete: bool, teardown_ns: int, stamp_ns: int) -> EpochSummary:
    total_ns = max(0, stamp_ns - probe.asked_ns)
    step_ns = max(0, total_ns - probe.start_up_ns - probe.wait_ns - teardown_ns)
    return EpochSummary(
        epoch=mark.epoch,
        settings=mark.began_with or LoaderSettings(0),
        batches=probe.batches,
        seconds=total_ns / 1e9,
        wait_seconds=probe.wait_ns / 1e9,
        step_seconds=step_ns / 1e9,
        start_up_seconds=probe.start_up_ns / 1e9,
        complete=complete,
        loader=mark.name,
    )


def _tell_begin(mark: Mark, iterator: object, iter_seconds: float, head: int) -> None:
    assert mark.transport is not None
    pids = [p for p in (getattr(w, "pid", None) for w in getattr(iterator, "_workers", ())) if p]
    settings = mark.began_with or LoaderSettings(0)
    mark.transport.begin_epoch(mark.key, mark.epoch, settings, iter_seconds, pids, mark.first_ring, head)


def _own_loads(mark: Mark, iterator: object) -> OwnLoads | None:
    if getattr(iterator, "_num_workers", 0) or mark.words is None:
        return None
    return OwnLoads(mark, mark.words, mark.first_ring)


def take_rings(mark: Mark, workers: int) -> None:
    """Draw the worker rings of the next iterator, which another live one does not use."""
    mark.first_ring = mark.next_ring
    mark.next_ring = (mark.next_ring + max(1, workers)) % ring.WORKER_RINGS


def _collected(mark: Mark, probe: Probe) -> None:
    """Close the epoch of an iterator that nobody holds any more."""
    try:
        mark.iterator = None if mark.probe is probe else mark.iterator
        abandon(mark, probe)
    except Exception:
        log.absorbed("ending an abandoned epoch")
