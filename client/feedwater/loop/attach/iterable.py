"""Watches an iterable that is no ``DataLoader``, through a wrapper. It is measured and never tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter_ns
from typing import Generic, TypeVar, cast

from feedwater import guard
from feedwater.loop.boundary import boundary, epochs, registration
from feedwater.loop.change.tuning import KEEPS_ITERATOR
from feedwater.loop.measure.probe import Probe
from feedwater.loop.watched import WatchedLoader
from feedwater.values import LoaderSettings

T = TypeVar("T")


class WatchedIterable(Generic[T]):
    """Wraps an iterable and times its batches; all other attributes are the wrapped iterable's."""

    def __init__(self, iterable: Iterable[T], watched: WatchedLoader) -> None:
        self._feedwater_iterable = iterable
        self._feedwater_watched = watched

    def __iter__(self) -> Iterator[T]:
        """Return an iterator over the items, each of which is timed."""
        watched = self._feedwater_watched

        def measured(make: guard.Make[Iterator[T]], iterable: object) -> Iterator[T]:
            asked_ns = perf_counter_ns()
            is_measured = _cross(watched, iterable)
            iterator = make(iterable)
            probe = _begin(watched, asked_ns) if is_measured else None
            return iterator if probe is None else _timed(iterator, probe)

        make = cast("guard.Make[Iterator[T]]", iter)
        return guard.around("the epoch boundary", make, self._feedwater_iterable, measured)

    def __len__(self) -> int:
        """Return the length of the wrapped iterable."""
        return len(self._feedwater_iterable)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        """Return the attribute of the wrapped iterable."""
        if name.startswith("_feedwater_"):  # It is not set yet while this object is unpickled or copied.
            raise AttributeError(name)
        return getattr(self._feedwater_iterable, name)

    def __getitem__(self, index: object) -> object:
        """Return the item of the wrapped iterable."""
        return self._feedwater_iterable[index]  # type: ignore[index]

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy as the wrapped iterable, because a watched loader belongs to one process."""
        return _same, (self._feedwater_iterable,)


def _same(iterable: Iterable[T]) -> Iterable[T]:
    return iterable


def _cross(watched: WatchedLoader, iterable: object) -> bool:
    """End the epoch before and take its recommendation; return whether the next one can be measured."""
    is_measured = False
    with watched.recording.guarded("the epoch boundary"):
        is_measured = registration.ensure_open(watched, iterable)
        if is_measured:
            boundary.prepare_process()
            watched.tuning.set_obstacle(KEEPS_ITERATOR)
            epochs.abandon(watched)
            boundary.take_recommendation(watched, iterable)
            watched.recording.take_worker_rings(0)
    return is_measured and not watched.recording.is_broken


def _begin(watched: WatchedLoader, asked_ns: int) -> Probe | None:
    with watched.recording.guarded("the beginning of an epoch"):
        return epochs.begin_plain(watched, LoaderSettings(0), asked_ns, (perf_counter_ns() - asked_ns) / 1e9)
    return None


def _timed(iterator: Iterator[T], probe: Probe) -> Iterator[T]:
    """Yield the items of the iterator, and stamp when each was requested and came, for 0.2 µs (3.11)."""
    clock, stamps = perf_counter_ns, probe.stamps
    enter, is_whole = 0, False
    try:
        try:
            enter = probe.enter_clock()
        except Exception:
            enter = _stop_sampling(probe)
        for item in iterator:
            leave = clock()
            stamps.append(enter)
            stamps.append(leave)
            if leave >= probe.due_ns:
                try:
                    probe.inspect_batch(iterator, 0)
                except Exception:
                    guard.report("measuring a batch")
                    break
            yield item
            try:
                enter = probe.enter_clock()
            except Exception:
                enter = _stop_sampling(probe)
        else:
            is_whole = True
            return
        yield item
        yield from iterator
    finally:
        with guard.swallow("the end of an epoch"):
            _close(probe, enter if is_whole else 0)


def _stop_sampling(probe: Probe) -> int:
    """Sample no more steps on the device, because of the exception being handled; return the time."""
    guard.report("measuring a batch")
    probe.enter_clock = perf_counter_ns
    return perf_counter_ns()


def _close(probe: Probe, enter_ns: int) -> None:
    if enter_ns:
        probe.on_stop_iteration(enter_ns)
    elif isinstance(probe.observer, epochs.EpochRecorder):
        probe.observer.on_abandoned(probe)
