"""Watches what is no ``DataLoader``: measured through a wrapper, never tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter_ns
from typing import Generic, TypeVar

from feedwater.loop.boundary import boundary, epochs, registration
from feedwater.loop.log import absorbed
from feedwater.loop.measure.probe import Probe
from feedwater.loop.watched import Mark
from feedwater.values import LoaderSettings

T = TypeVar("T")


class WatchedIterable(Generic[T]):
    """An iterable whose batches are timed; everything else is the wrapped one's."""

    def __init__(self, iterable: Iterable[T], mark: Mark) -> None:
        self._feedwater_iterable = iterable
        self._feedwater_mark = mark

    def __iter__(self) -> Iterator[T]:
        """Return an iterator over the wrapped one's items, each timed."""
        asked_ns = perf_counter_ns()
        mark, iterable = self._feedwater_mark, self._feedwater_iterable
        is_measured = _turn(mark, iterable)
        iterator = iter(iterable)
        probe = _begin(mark, asked_ns) if is_measured else None
        return iterator if probe is None else _timed(iterator, probe)

    def __len__(self) -> int:
        """Return the wrapped one's length."""
        return len(self._feedwater_iterable)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        """Return the wrapped one's attribute."""
        if name.startswith("_feedwater_"):  # Not set yet: unpickling, copying.
            raise AttributeError(name)
        return getattr(self._feedwater_iterable, name)

    def __getitem__(self, index: object) -> object:
        """Return the wrapped one's item."""
        return self._feedwater_iterable[index]  # type: ignore[index]

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy as the wrapped one: a mark belongs to a process."""
        return _same, (self._feedwater_iterable,)


def _same(iterable: Iterable[T]) -> Iterable[T]:
    return iterable


def _turn(mark: Mark, iterable: object) -> bool:
    try:
        if not registration.is_open(mark, iterable):
            return False
        boundary.prepare_process()
        mark.can_apply = False
        epochs.abandon(mark)
        boundary.advise_only(mark, iterable)
        epochs.take_rings(mark, 0)
    except Exception:
        mark.is_broken = True
        absorbed("the epoch boundary")
    return not mark.is_broken


def _begin(mark: Mark, asked_ns: int) -> Probe | None:
    try:
        return epochs.begin_plain(mark, LoaderSettings(0), asked_ns, (perf_counter_ns() - asked_ns) / 1e9)
    except Exception:
        mark.is_broken = True
        absorbed("the beginning of an epoch")
        return None


def _timed(iterator: Iterator[T], probe: Probe) -> Iterator[T]:
    """Yield the iterator's items, noting when each was asked for and came: 0.2 µs, measured on 3.11."""
    clock, stamps = perf_counter_ns, probe.stamps
    enter, is_whole = 0, False
    try:
        enter = probe.ask()
        for item in iterator:
            leave = clock()
            stamps.append(enter)
            stamps.append(leave)
            if leave >= probe.due_ns:
                probe.noticed(iterator, 0)
            yield item
            enter = probe.ask()
        is_whole = True
    finally:
        _close(probe, enter if is_whole else 0)


def _close(probe: Probe, enter_ns: int) -> None:
    try:
        if enter_ns:
            probe.stopped(enter_ns)
        elif isinstance(probe.keeper, epochs.Keeper):
            probe.keeper.abandoned(probe)
    except Exception:
        absorbed("the end of an epoch")
