"""Finds the watched loader that a new one continues, because frameworks rebuild loaders."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

from feedwater.loop import dataloader, origin, registry
from feedwater.loop.change import safety
from feedwater.loop.log import log_once
from feedwater.loop.watched import LoaderIdentity, WatchedLoader, WatchOptions


def find(loader: object) -> WatchedLoader | None:
    """Return the state of ``loader``, or of the loader that it continues; None if neither is watched."""
    watched = registry.of(loader)
    if watched is None and registry.every() and not safety.is_trial(loader):
        watched = adopt(loader)
    return watched


def adopt(loader: object, name: str | None = None) -> WatchedLoader | None:
    """Register ``loader`` as the watched loader that it continues, and return that; None if there is none.

    A loader with a ``name`` of the user's does not continue one that the user gave another name.

    Accelerate's ``prepare`` and Lightning (under DDP) build a new loader around the same dataset object,
    perhaps in a shard wrapper, and never iterate the old one. Hugging Face's Trainer makes a new loader for
    each evaluation and keeps the old ones. Scripts make a new dataset and loader for each shard.
    """
    dataset = dataloader.dataset_of(loader)
    if dataset is None:
        return None
    known = registry.every()
    possible = [w for w in known if w.recording.epoch < 0 or not _is_named_otherwise(w.options, name)]
    same = [w for w in possible if _has_dataset(w, dataset)]
    others = [w for w in possible if w not in same]
    watched = next((w for w in same if _is_replaced_by(w, loader)), None)
    watched = watched or next((w for w in same if _is_free(w)), None)
    watched = watched or next((w for w in others if _is_rebuilt_as(w, loader)), None)
    if watched is not None:
        register(loader, watched)
    return watched


def register(loader: object, watched: WatchedLoader) -> None:
    """Register ``loader`` as ``watched``. If an attribute of the loader raises, nothing is registered."""
    identity = LoaderIdentity(
        origin=origin.of(loader),
        shape=dataloader.shape_of(loader),
        dataset=_weak_reference(dataloader.dataset_of(loader)),
    )
    registry.register(loader, watched, identity)


def separate(watched: WatchedLoader, loader: object) -> WatchedLoader:
    """Return ``watched``, or a new state for ``loader`` where another loader of ``watched`` is in use too."""
    in_use = watched.loader_in_use()
    if in_use is loader:
        return watched
    if in_use is None:
        register(loader, watched)
        return watched
    options, name = watched.options, registry.another_name(watched.name)
    own = WatchedLoader(options=replace(options, name=name, is_named_by_user=False, is_watch_called=False))
    log_once(f"name {options.name}", f"two loaders are called {options.name!r}; one of them is now {name!r}")
    register(loader, own)
    return own


def _is_named_otherwise(options: WatchOptions, name: str | None) -> bool:
    return bool(name) and options.is_named_by_user and options.name != name


def _is_free(watched: WatchedLoader) -> bool:
    """Return whether its loader was never iterated, or was deleted after its last batch."""
    is_resting = watched.recording.rests_since_ns is not None
    return watched.recording.epoch < 0 or (watched.loader_in_use() is None and is_resting)


def _is_replaced_by(watched: WatchedLoader, loader: object) -> bool:
    """Return whether a loader over the same dataset was made after the watched one had ended."""
    return _is_like(watched, loader) and _is_later(watched, loader)


def _is_rebuilt_as(watched: WatchedLoader, loader: object) -> bool:
    """Return whether a loader of the same shape was made later, at the same place in the code."""
    new = origin.of(loader)
    before = watched.identity.origin if watched.identity is not None else None
    return (
        new is not None
        and before is not None
        and new.calls == before.calls
        and _is_like(watched, loader)
        and _is_later(watched, loader)
    )


def _is_like(watched: WatchedLoader, loader: object) -> bool:
    shape = dataloader.shape_of(loader)
    before = watched.identity.shape if watched.identity is not None else None
    return shape is not None and before is not None and shape.is_like(before)


def _is_later(watched: WatchedLoader, loader: object) -> bool:
    """Return whether a loader was made after the last epoch of ``watched`` had ended."""
    new, rests_ns = origin.of(loader), watched.recording.rests_since_ns
    return new is not None and rests_ns is not None and 0 < rests_ns <= new.stamp_ns


def _has_dataset(watched: WatchedLoader, dataset: object) -> bool:
    known = watched.identity.dataset() if watched.identity is not None else None
    return known is dataset or (type(known) is tuple and known == _token(dataset))


def _weak_reference(value: object) -> Callable[[], object]:
    try:
        return weakref.ref(value)
    except TypeError:  # A list can be a dataset, and cannot be referenced weakly.
        token = _token(value)
        return lambda: token


def _token(value: object) -> tuple[int, type, int] | None:
    return (id(value), type(value), len(value)) if isinstance(value, (list, tuple, range)) else None
