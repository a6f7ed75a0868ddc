"""How a live ``DataLoader`` is changed, and what the making of its iterator is lent meanwhile.

Semantics of torch 2.13 and 2.14: ``num_workers`` and ``prefetch_factor`` can be assigned and act at the next
``iter()``; workers that persist ignore it until they are shut down and their iterator is dropped.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from feedwater.loop import dataloader
from feedwater.loop.change.tuning import Tuning
from feedwater.values import LoaderSettings

Loader = object
"""A ``DataLoader``. Its class is not named, because nothing here imports torch."""


def wanted_settings(now: LoaderSettings, recommended: LoaderSettings) -> LoaderSettings:
    """Return ``now`` with the count and the prefetch depth recommended: the only two that are changed."""
    count = recommended.num_workers
    prefetch = (recommended.prefetch_factor or 2) if count > 0 else None
    return replace(now, num_workers=count, prefetch_factor=prefetch)


def change(loader: Loader, wanted: LoaderSettings) -> None:
    """Make the next ``iter(loader)`` use ``wanted``'s count and prefetch depth."""
    _end_persistent_workers(loader)
    _recount_init_fn(loader, wanted.num_workers)
    # Both together: N workers without a prefetch factor are a TypeError, 0 workers with one make
    # Lightning's re-instantiation raise.
    _assign(loader, num_workers=wanted.num_workers, prefetch_factor=wanted.prefetch_factor)


def _assign(loader: Loader, **values: object) -> None:
    for name, value in values.items():
        setattr(loader, name, value)


def _end_persistent_workers(loader: Loader) -> None:
    iterator = getattr(loader, "_iterator", None)
    if iterator is None:
        return
    _assign(loader, _iterator=None)
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def _recount_init_fn(loader: Loader, count: int) -> None:
    """Rebuild Hugging Face's ``partial(seed_worker, num_workers=N)``, which freezes the count."""
    init = getattr(loader, "worker_init_fn", None)
    if isinstance(init, functools.partial) and "num_workers" in init.keywords and count > 0:
        keywords = {**init.keywords, "num_workers": count}
        _assign(loader, worker_init_fn=functools.partial(init.func, *init.args, **keywords))


def refusal(loader: Loader, now: LoaderSettings, wanted: LoaderSettings, epoch_was_complete: bool) -> str:
    """Return why PyTorch would not take the change, a full sentence; empty if it would."""
    if getattr(loader, "next_iter_state", None) is not None:
        return "A state to resume from is pending, and it needs the count of workers it was saved with."
    if wanted.num_workers == 0 and bool(getattr(loader, "timeout", 0)):
        return "The loader has a timeout, which PyTorch refuses without workers."
    if now.persistent_workers and not epoch_was_complete and _is_held_elsewhere(loader):
        return "The loader's persistent workers still serve another iterator."
    return ""


def _is_held_elsewhere(loader: Loader) -> bool:
    iterator = getattr(loader, "_iterator", None)
    # Known references: the loader's attribute, the local variable, getrefcount's argument.
    return iterator is not None and sys.getrefcount(iterator) > 3


def builds_anew(loader: Loader) -> bool:
    """Say whether the next ``iter(loader)`` makes an iterator, and not resets the persistent one."""
    s = dataloader.settings_of(loader)
    return not (s.persistent_workers and s.num_workers > 0 and getattr(loader, "_iterator", None) is not None)


@contextmanager
def lent(loader: Loader, values: dict[str, object]) -> Iterator[None]:
    """Put attributes on ``loader`` for as long as the context lasts.

    Past ``__setattr__``, which refuses a sampler: PyTorch itself reads them back from the instance.
    """
    own = vars(loader)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values:
            own.pop(name, None)
        own.update(before)


def loans(tuning: Tuning, loader: Loader) -> dict[str, object]:
    """Return what the next iterator is made with, so that a count of ours draws what the user's would have.

    The main generator feeds shuffling and the user's own code. Making an iterator draws one seed from it and
    asks an eager sampler for its order once, twice with workers; workers that persist are made once and draw
    nothing later.
    """
    values: dict[str, object] = {}
    if tuning.chosen is not None:
        values["check_worker_number_rationality"] = _nothing
    if not builds_anew(loader):
        return values
    if _user_would_reuse(tuning):
        values["generator"] = _private_generator(tuning)
    if dataloader.settings_of(loader).num_workers > 0 and _sampler_calls(tuning) == 1:
        values.update(_once(loader))
    return values


def settle(tuning: Tuning, loader: Loader, iterator: object, lent_values: dict[str, object]) -> None:
    """Take back what a new iterator was lent; ask an eager sampler again where the user's count would."""
    name = _sampler_name(loader)
    if name in lent_values:
        _assign(iterator, _index_sampler=getattr(loader, name))
    if _sampler_calls(tuning) == 2 and dataloader.settings_of(loader).num_workers == 0:
        sampler = getattr(loader, name)
        if _is_eager(sampler):
            _assign(iterator, _sampler_iter=iter(sampler))


def _nothing() -> None:
    """Stand in for the check that warns "might get slow or even freeze": the count is ours, and measured."""


def _user_would_reuse(tuning: Tuning) -> bool:
    """Say whether only our change is why an iterator is made now: the user's workers would still live."""
    own, chosen = tuning.own_settings, tuning.chosen
    is_ours = tuning.is_rebuilding or (chosen is not None and chosen.num_workers == 0)
    return (
        own is not None
        and own.persistent_workers
        and own.num_workers > 0
        and not tuning.is_new_loader
        and is_ours
    )


def _sampler_calls(tuning: Tuning) -> int:
    """Return how often PyTorch would call the sampler's ``__iter__`` under the user's own settings."""
    own = tuning.own_settings
    return 1 if own is None or own.num_workers == 0 or _user_would_reuse(tuning) else 2


def _private_generator(tuning: Tuning) -> object:
    from torch import Generator

    generator = Generator()
    generator.manual_seed(tuning.next_seed)
    return generator


def _sampler_name(loader: Loader) -> str:
    return "batch_sampler" if getattr(loader, "batch_sampler", None) is not None else "sampler"


def _once(loader: Loader) -> dict[str, object]:
    name = _sampler_name(loader)
    sampler = getattr(loader, name, None)
    if sampler is None or not _is_eager(sampler):
        return {}
    return {name: _AskedOnce(sampler)}


def _is_eager(sampler: object) -> bool:
    """Say whether ``iter(sampler)`` may draw numbers at once; a generator function does at the first next."""
    if isinstance(sampler, (list, tuple, range)):
        return False
    return not inspect.isgeneratorfunction(getattr(type(sampler), "__iter__", None))


class _AskedOnce:
    """A sampler that gives the same iterator to both calls that making an iterator with workers does."""

    def __init__(self, sampler: object) -> None:
        self._sampler = sampler
        self._iterator: Iterator[object] | None = None

    def __iter__(self) -> Iterator[object]:
        if self._iterator is None:
            self._iterator = iter(cast("list[object]", self._sampler))
        return self._iterator

    def __getattr__(self, name: str) -> object:
        return getattr(self._sampler, name)


def call(original: Callable[[Loader], object], loader: Loader, values: dict[str, object]) -> object:
    """Return ``original(loader)``, made while ``values`` are lent."""
    if not values:
        return original(loader)
    with lent(loader, values):
        return original(loader)
