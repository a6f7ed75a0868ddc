"""Patches PyTorch's classes, once, at the first `watch`.

`_BaseDataLoaderIter.__next__` is the only timing point; an iterator without a probe costs an attribute lookup
(40 ns). Epochs begin and settings change in `DataLoader.__iter__`. Loaders that do not call it are patched
elsewhere: Ultralytics' calls `DataLoader._get_iterator`, fastai's constructs the iterator itself.
`DataLoader.__init__` records when and by whom a loader was made.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Protocol, cast

from feedwater import guard
from feedwater.loop import origin
from feedwater.loop.attach import adoption
from feedwater.loop.boundary import boundary, registration
from feedwater.loop.change.tuning import KEEPS_ITERATOR
from feedwater.loop.log import log_once
from feedwater.loop.measure.probe import LONG_WAIT_NS, Probe
from feedwater.loop.watched import WatchedLoader


class Probed(Protocol):
    """An iterator of PyTorch's with the attribute that the hooks read."""

    _feedwater_probe: Probe | None


Next = Callable[[Probed], object]
FindWatched = Callable[[object], WatchedLoader | None]

_is_installed = False
_find: FindWatched = adoption.find
_patched: set[type] = set()


def ensure_installed(consequence: str) -> bool:
    """Install the hooks, and return whether that was possible.

    Args:
        consequence: What follows where it is not, for the log: ``"nothing is measured"``.
    """
    lacking = missing_name()
    if lacking:
        log_once("moved", f"{consequence}: this PyTorch has no {lacking}")
        return False
    install()
    return True


def missing_name() -> str:
    """Return the private name that this PyTorch lacks; empty if it has all that are patched."""
    from torch.utils.data import dataloader

    base = getattr(dataloader, "_BaseDataLoaderIter", None)
    if base is None or "__next__" not in vars(base):
        return "_BaseDataLoaderIter.__next__"
    if "__iter__" not in vars(dataloader.DataLoader):
        return "DataLoader.__iter__"
    return ""


def install() -> None:
    """Patch PyTorch's classes, and torchdata's where it is loaded. Does nothing the second time."""
    global _is_installed
    if not _is_installed:
        from torch.utils.data import DataLoader, dataloader

        base = cast(Any, dataloader._BaseDataLoaderIter)
        base._feedwater_probe = None
        base.__next__ = timed_next(base.__next__)
        patch_iter(DataLoader)
        _patch_get_iterator(DataLoader)
        for kind in ("_SingleProcessDataLoaderIter", "_MultiProcessingDataLoaderIter"):
            _patch_iterator(getattr(dataloader, kind, None))
        boundary.prepare_process()
        _is_installed = True
    _patch_torchdata()


def _patch_torchdata() -> None:
    module = sys.modules.get("torchdata.stateful_dataloader.stateful_dataloader")
    loader_class = getattr(module, "StatefulDataLoader", None)
    if loader_class is not None and "__iter__" in vars(loader_class):
        patch_iter(loader_class)


def find_loaders_with(find: FindWatched) -> None:
    """Call ``find`` at each boundary for the state of a loader."""
    global _find
    _find = find


def _watched(loader: object) -> WatchedLoader | None:
    with guard.swallow("looking at a loader"):  # A loader's attributes can be the user's code.
        watched = _find(loader)
        return None if watched is None else adoption.separate(watched, loader)
    return None


def _iterate(original: boundary.MakeIterator, loader: object) -> object:
    """Return ``original(loader)``, measured where the loader is watched."""
    watched = None if boundary.is_making(loader) else _watched(loader)
    return original(loader) if watched is None else boundary.iterate(watched, loader, original)


def patch_iter(loader_class: type) -> None:
    """Make ``loader_class.__iter__`` the epoch boundary of watched loaders."""
    if loader_class in _patched:
        return
    _patched.add(loader_class)
    original = cast(Any, loader_class).__iter__

    @functools.wraps(original)
    def __iter__(self: object) -> object:  # noqa: N807
        return guard.around("the epoch boundary", original, self, _iterate)

    cast(Any, loader_class).__iter__ = __iter__
    _patch_init(loader_class)


def _patch_init(loader_class: type) -> None:
    """Record where and when a loader is made."""
    original = cast(Any, loader_class).__init__

    @functools.wraps(original)
    def __init__(self: object, *args: object, **keywords: object) -> None:  # noqa: N807
        with guard.swallow("noting where a loader is made"):
            origin.note(self)
        original(self, *args, **keywords)

    cast(Any, loader_class).__init__ = __init__


def _patch_get_iterator(loader_class: type) -> None:
    """Make ``_get_iterator`` an epoch boundary too, for loaders whose own ``__iter__`` calls it."""
    original = vars(loader_class).get("_get_iterator")
    if original is None:
        return

    @functools.wraps(original)
    def _get_iterator(self: object) -> object:
        return guard.around("the epoch boundary", original, self, _iterate)

    cast(Any, loader_class)._get_iterator = _get_iterator


def _patch_iterator(iterator_class: type | None) -> None:
    """Measure iterators that are constructed without ``DataLoader``; nothing can be applied to them."""
    if iterator_class is None:
        return
    original = cast(Any, iterator_class).__init__

    @functools.wraps(original)
    def __init__(self: object, loader: object, **keywords: object) -> None:  # noqa: N807
        def measured(construct: boundary.MakeIterator, loader: object) -> None:
            watched = None if boundary.is_making(loader) else _watched(loader)
            if watched is None:
                construct(loader)
            else:
                boundary.iterate_untuned(watched, loader, construct, self)

        init = functools.partial(original, self, **keywords)
        guard.around("the epoch boundary", init, loader, measured)

    cast(Any, iterator_class).__init__ = __init__


def join(watched: WatchedLoader, loader: object, iterator: object) -> None:
    """Measure an iterator that was made before its loader was watched. Nothing can be applied to it."""
    if cast(Any, iterator)._feedwater_probe is not None:
        return
    watched.tuning.add_obstacle(KEEPS_ITERATOR)
    if registration.ensure_open(watched, loader):
        boundary.begin(watched, loader, iterator, perf_counter_ns(), 0.0)


def timed_next(original: Next) -> Next:
    """Return a ``__next__`` that stamps when it was entered and left, for 0.2 µs (3.11).

    This path uses only locals and slots: globals, more method calls and tuples were measured and cost more.
    `feedwater.loop.measure.probe.STORE_NS` explains why stamps are not stored in the ring at once.
    """
    assert LONG_WAIT_NS == 200_000  # A literal below: a global costs 20 ns.
    clock = perf_counter_ns

    @functools.wraps(original)
    def __next__(self: Any) -> Any:  # noqa: N807
        probe = self._feedwater_probe
        if probe is None:
            return original(self)
        try:
            enter = probe.enter_clock()
        except Exception:
            _stop(self, "measuring a batch")
            enter = clock()
        try:
            batch = original(self)
        except BaseException as error:
            try:
                _on_exception(probe, enter, error)
            except Exception:
                _stop(self, "the end of an epoch")
            raise
        leave = clock()
        stamps = probe.stamps
        stamps.append(enter)
        stamps.append(leave)
        if leave >= probe.due_ns or leave - enter > 200_000:
            try:
                probe.inspect_batch(self, leave - enter)
            except Exception:
                _stop(self, "measuring a batch")
        return batch

    return __next__


def _on_exception(probe: Probe, enter_ns: int, error: BaseException) -> None:
    """Tell the probe that ``next()`` raised."""
    if isinstance(error, StopIteration):
        probe.on_stop_iteration(enter_ns)
    else:
        probe.observer.on_exception(probe, error)


def _stop(iterator: Probed, where: str) -> None:
    """Measure no more batches of an iterator, because of the exception being handled."""
    iterator._feedwater_probe = None
    guard.report(where)
