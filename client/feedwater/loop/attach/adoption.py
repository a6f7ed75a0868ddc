"""Finds the loader that a new one continues: frameworks build loaders anew, and measurements go on."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from feedwater.loop import dataloader, origin, watched
from feedwater.loop.change import safety
from feedwater.loop.log import say_once
from feedwater.loop.watched import Mark


def find(loader: object) -> Mark | None:
    """Return the mark of ``loader``, or of the loader that it was rebuilt from; None if there is neither."""
    mark = watched.of(loader)
    if mark is None and watched.every() and not safety.is_trial(loader):
        mark = adopt(loader)
    return mark


def adopt(loader: object, name: str | None = None) -> Mark | None:
    """Give ``loader`` the mark of the loader that it continues; None if there is none.

    One that the user names continues none that the user named otherwise.

    Accelerate's ``prepare`` and Lightning (under DDP) build a new loader around the same dataset object,
    perhaps in a shard wrapper, and never iterate the old one. Hugging Face's Trainer makes a new loader for
    each evaluation and keeps the old ones; scripts make data set and loader anew for each shard.
    """
    dataset = dataloader.dataset_of(loader)
    if dataset is None:
        return None
    possible = [
        m for m in watched.every() if m.epoch < 0 or not (name and m.named_by_user and m.name != name)
    ]
    same = [m for m in possible if _has(m, dataset)]
    others = [m for m in possible if m not in same]
    mark = next((m for m in same if _is_replaced_by(m, loader)), None)
    mark = mark or next((m for m in same if _is_free(m)), None)
    mark = mark or next((m for m in others if _is_made_anew(m, loader)), None)
    if mark is not None:
        put(loader, mark)
    return mark


def put(loader: object, mark: Mark) -> None:
    """Mark ``loader``; whatever its own code raises, it has no mark then."""
    made, shape = origin.of(loader), dataloader.shape_of(loader)
    dataset = _weak(dataloader.dataset_of(loader))
    watched.register(loader, mark)
    mark.origin, mark.shape, mark.dataset = made, shape, dataset


def own_mark(mark: Mark, loader: object) -> Mark:
    """Return ``mark``, or one of the loader's own where another loader took it over and both are in use."""
    in_use = mark.loader() if mark.loader is not None else None
    if in_use is loader:
        return mark
    if in_use is None:
        put(loader, mark)
        return mark
    own = Mark(
        f"{mark.name}-{watched.new_name().rpartition('-')[2]}",
        mode=mark.mode,
        default_mode=mark.default_mode,
        allow_workers=mark.allow_workers,
        on_epoch=mark.on_epoch,
        given_transport=mark.given_transport,
    )
    say_once(f"name {mark.name}", f"two loaders are called {mark.name!r}; one of them is now {own.name!r}")
    put(loader, own)
    return own


def _is_named_otherwise(mark: Mark, name: str | None) -> bool:
    return bool(name) and mark.named_by_user and mark.name != name


def _is_free(mark: Mark) -> bool:
    """Its loader was never iterated, or is gone with no batch to come: one in use keeps its mark."""
    is_gone = mark.loader is None or mark.loader() is None
    return mark.epoch < 0 or (is_gone and mark.rests_since_ns is not None)


def _is_replaced_by(mark: Mark, loader: object) -> bool:
    """Whether a loader over the same dataset was made when the mark's had no epoch left to run."""
    return _is_like(mark, loader) and _is_later(mark, loader)


def _is_made_anew(mark: Mark, loader: object) -> bool:
    """Whether a loader over a dataset of the same class and shape was made at the same place, later."""
    made = origin.of(loader)
    return (
        made is not None
        and mark.origin is not None
        and made.calls == mark.origin.calls
        and _is_like(mark, loader)
        and _is_later(mark, loader)
    )


def _is_like(mark: Mark, loader: object) -> bool:
    shape = dataloader.shape_of(loader)
    return shape is not None and mark.shape is not None and shape.is_like(mark.shape)


def _is_later(mark: Mark, loader: object) -> bool:
    """Whether a loader was made after the mark's last epoch had ended: two that were there before are two."""
    made, rests = origin.of(loader), mark.rests_since_ns
    return made is not None and rests is not None and 0 < rests <= made.stamp_ns


def _has(mark: Mark, dataset: object) -> bool:
    known = mark.dataset() if mark.dataset is not None else None
    return known is dataset or (type(known) is tuple and known == _token(dataset))


def _weak(value: object) -> Callable[[], object]:
    try:
        return weakref.ref(value)
    except TypeError:  # A list is a fine dataset and takes no weak references.
        token = _token(value)
        return lambda: token


def _token(value: object) -> tuple[int, type, int] | None:
    return (id(value), type(value), len(value)) if isinstance(value, (list, tuple, range)) else None
