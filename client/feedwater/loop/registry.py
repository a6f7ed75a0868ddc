"""The registry of watched loaders, by object identity: `watch` returns the very object that it was given."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from feedwater.loop.watched import LoaderIdentity, WatchedLoader
from feedwater.values import LoaderSettings

ORPHANS = 4
"""Watched loaders that are kept after their object was deleted, in case that a framework rebuilds it."""

_names = itertools.count()


@dataclass(slots=True)
class _Entry:
    loader: weakref.ref[object]
    watched: WatchedLoader
    assigned: LoaderSettings | None = None
    """The settings that Feedwater assigned last to this object; None: it assigned none."""


_entries: dict[int, _Entry] = {}
_all: list[WatchedLoader] = []


def of(loader: object) -> WatchedLoader | None:
    """Return the state of ``loader``; None if it is not registered."""
    entry = _entry(loader)
    return None if entry is None else entry.watched


def assigned_settings(loader: object) -> LoaderSettings | None:
    """Return the settings that Feedwater assigned last to this object; None if it assigned none."""
    entry = _entry(loader)
    return None if entry is None else entry.assigned


def note_assigned(loader: object, settings: LoaderSettings) -> None:
    """Keep that Feedwater assigned ``settings`` to ``loader``."""
    entry = _entry(loader)
    if entry is not None:
        entry.assigned = settings


def _entry(loader: object) -> _Entry | None:
    entry = _entries.get(id(loader))
    return entry if entry is not None and entry.loader() is loader else None


def register(loader: object, watched: WatchedLoader, identity: LoaderIdentity) -> None:
    """Register ``loader`` as the loader in use of ``watched``."""
    known = _entry(loader)
    if known is not None:
        known.watched = watched
    else:
        # By identity, not a WeakKeyDictionary: a subclass may define __eq__ and with it lose its hash.
        _entries[id(loader)] = _Entry(weakref.ref(loader, _forgetting(id(loader))), watched)
    watched.loader, watched.identity = weakref.ref(loader), identity
    watched.tuning.start_loader()
    if watched not in _all:
        _all.append(watched)
        _drop_old_orphans()


def _forgetting(identity: int) -> Callable[[weakref.ref[object]], None]:
    def forget(reference: weakref.ref[object]) -> None:
        entry = _entries.get(identity)
        if entry is not None and entry.loader is reference:
            _entries.pop(identity, None)

    return forget


def _drop_old_orphans() -> None:
    orphans = [
        w for w in _all if w.loader is not None and w.loader() is None and not w.recording.is_iterating
    ]
    for watched in orphans[:-ORPHANS]:
        _all.remove(watched)
        watched.recording.tell_ring_released()


def new_name() -> str:
    """Return the next default name: "loader-0", then "loader-1"."""
    return f"loader-{next(_names)}"


def another_name(name: str) -> str:
    """Return a name of its own for a second loader called ``name``: "train-3"."""
    return f"{name}-{next(_names)}"


def named(name: str) -> WatchedLoader | None:
    """Return the watched loader that a user gave this name; None if there is none."""
    return next((w for w in _all if w.options.is_named_by_user and w.name == name), None)


def every() -> list[WatchedLoader]:
    """Return all watched loaders of this process."""
    return list(_all)


def forget_all() -> None:
    """Forget all watched loaders, as a forked process does."""
    _entries.clear()
    _all.clear()
