"""Changes a live ``DataLoader``, and the attributes that its next iterator is made with.

Semantics of torch 2.13 and 2.14: ``num_workers`` and ``prefetch_factor`` can be assigned and act at the next
``iter()``; persistent workers ignore it until they are shut down and their iterator is dropped.
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
"""A ``DataLoader``. Its class is not named, because torch is not imported here."""


def wanted_settings(current: LoaderSettings, recommended: LoaderSettings) -> LoaderSettings:
    """Return ``current`` with the recommended count and prefetch depth, the only two that change."""
    count = recommended.num_workers
    prefetch = (recommended.prefetch_factor or 2) if count > 0 else None
    return replace(current, num_workers=count, prefetch_factor=prefetch)


def change(loader: Loader, wanted: LoaderSettings) -> None:
    """Assign the count and prefetch depth of ``wanted``, for the next ``iter(loader)``."""
    _end_persistent_workers(loader)
    _set_count_of_init_fn(loader, wanted.num_workers)
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


def _set_count_of_init_fn(loader: Loader, count: int) -> None:
    """Rebuild Hugging Face's ``partial(seed_worker, num_workers=N)``, which has the count as an argument."""
    init = getattr(loader, "worker_init_fn", None)
    if isinstance(init, functools.partial) and "num_workers" in init.keywords and count > 0:
        keywords = {**init.keywords, "num_workers": count}
        _assign(loader, worker_init_fn=functools.partial(init.func, *init.args, **keywords))


def refusal(loader: Loader, current: LoaderSettings, wanted: LoaderSettings, epoch_was_complete: bool) -> str:
    """Return why PyTorch would refuse the change, a full sentence; empty if it would not."""
    if getattr(loader, "next_iter_state", None) is not None:
        return "A state to resume from is pending, and it needs the count of workers it was saved with."
    if wanted.num_workers == 0 and bool(getattr(loader, "timeout", 0)):
        return "The loader has a timeout, which PyTorch refuses without workers."
    if current.persistent_workers and not epoch_was_complete and _is_referenced_elsewhere(loader):
        return "The loader's persistent workers still serve another iterator."
    return ""


def _is_referenced_elsewhere(loader: Loader) -> bool:
    iterator = getattr(loader, "_iterator", None)
    # Three references are known: the loader's attribute, the local variable, getrefcount's argument.
    return iterator is not None and sys.getrefcount(iterator) > 3


def makes_iterator(loader: Loader) -> bool:
    """Return whether the next ``iter(loader)`` makes an iterator; otherwise it resets the persistent one."""
    s = dataloader.settings_of(loader)
    return not (s.persistent_workers and s.num_workers > 0 and getattr(loader, "_iterator", None) is not None)


@contextmanager
def temporarily_set(loader: Loader, values: dict[str, object]) -> Iterator[None]:
    """Set attributes of ``loader`` within the context, and restore them after it.

    They go to the instance's dictionary, because ``DataLoader.__setattr__`` refuses a sampler.
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


def overrides(tuning: Tuning, loader: Loader) -> dict[str, object]:
    """Return the attributes to make the next iterator with, so that random numbers stay the user's.

    The main generator serves shuffling and the user's own code. Making an iterator draws one seed from it,
    and calls an eager sampler's ``__iter__`` once, or twice with workers; persistent workers are made once,
    and nothing is drawn later. With these attributes our count draws as often as the user's would have.
    """
    values: dict[str, object] = {}
    if tuning.chosen_settings is not None:
        values["check_worker_number_rationality"] = _skip_check
    if not makes_iterator(loader):
        return values
    if _user_would_keep_workers(tuning):
        values["generator"] = _private_generator(tuning)
    if dataloader.settings_of(loader).num_workers > 0 and _sampler_calls(tuning) == 1:
        values.update(_shared_sampler(loader))
    return values


def restore(tuning: Tuning, loader: Loader, iterator: object, values: dict[str, object]) -> None:
    """Give a new iterator the loader's own sampler, called as often as under the user's count."""
    name = _sampler_name(loader)
    if name in values:
        _assign(iterator, _index_sampler=getattr(loader, name))
    if _sampler_calls(tuning) == 2 and dataloader.settings_of(loader).num_workers == 0:
        sampler = getattr(loader, name)
        if _is_eager(sampler):
            _assign(iterator, _sampler_iter=iter(sampler))


def _skip_check() -> None:
    """Replace PyTorch's check that warns "might get slow or even freeze": our count is measured."""


def _user_would_keep_workers(tuning: Tuning) -> bool:
    """Return whether the user's persistent workers would still live, were it not for our change."""
    own, chosen = tuning.user_settings, tuning.chosen_settings
    is_ours = tuning.is_rebuilding or (chosen is not None and chosen.num_workers == 0)
    return (
        own is not None
        and own.persistent_workers
        and own.num_workers > 0
        and not tuning.is_new_loader
        and is_ours
    )


def _sampler_calls(tuning: Tuning) -> int:
    """Return how often, 1 or 2, PyTorch would call the sampler's ``__iter__`` under the user's settings."""
    own = tuning.user_settings
    return 1 if own is None or own.num_workers == 0 or _user_would_keep_workers(tuning) else 2


def _private_generator(tuning: Tuning) -> object:
    from torch import Generator

    generator = Generator()
    generator.manual_seed(tuning.next_seed)
    return generator


def _sampler_name(loader: Loader) -> str:
    return "batch_sampler" if getattr(loader, "batch_sampler", None) is not None else "sampler"


def _shared_sampler(loader: Loader) -> dict[str, object]:
    name = _sampler_name(loader)
    sampler = getattr(loader, name, None)
    if sampler is None or not _is_eager(sampler):
        return {}
    return {name: _SharedIteration(sampler)}


def _is_eager(sampler: object) -> bool:
    """Return whether ``iter(sampler)`` may draw numbers; a generator function draws at the first ``next``."""
    if isinstance(sampler, (list, tuple, range)):
        return False
    return not inspect.isgeneratorfunction(getattr(type(sampler), "__iter__", None))


class _SharedIteration:
    """A sampler with one iterator for both calls of ``__iter__`` that an iterator with workers makes."""

    def __init__(self, sampler: object) -> None:
        self._sampler = sampler
        self._iterator: Iterator[object] | None = None

    def __iter__(self) -> Iterator[object]:
        if self._iterator is None:
            self._iterator = iter(cast("list[object]", self._sampler))
        return self._iterator

    def __getattr__(self, name: str) -> object:
        return getattr(self._sampler, name)


def call_with(original: Callable[[Loader], object], loader: Loader, values: dict[str, object]) -> object:
    """Return ``original(loader)``, called while ``values`` are attributes of ``loader``."""
    if not values:
        return original(loader)
    with temporarily_set(loader, values):
        return original(loader)
