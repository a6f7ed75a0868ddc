"""Implements `feedwater.watch`: checks its arguments, installs the hooks and registers the loader."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar, cast

from feedwater import guard
from feedwater.loop import process, registry
from feedwater.loop.attach import adoption
from feedwater.loop.attach.iterable import WatchedIterable
from feedwater.loop.log import log_once
from feedwater.loop.watched import OnEpoch, WatchedLoader, WatchOptions
from feedwater.values import Mode, Transport

L = TypeVar("L", bound=Iterable[object])


def watch(
    loader: L,
    name: str | None,
    mode: Mode | str | None,
    allow_workers: bool,
    on_epoch: OnEpoch | None,
    transport: Transport | None,
) -> L:
    """Register ``loader``, or wrap it; see `feedwater.watch`."""
    _check_loader(loader)
    _check_options(name, allow_workers, on_epoch, transport)
    wanted_mode = _mode(mode)
    with guard.swallow("watching a loader"):
        return _watch(loader, name, wanted_mode, allow_workers, on_epoch, transport)
    return loader


def _watch(
    loader: L,
    name: str | None,
    wanted_mode: Mode | None,
    allow_workers: bool,
    on_epoch: OnEpoch | None,
    transport: Transport | None,
) -> L:
    if process.settings().disabled:
        return loader
    if process.missing_feature():
        log_once("lacks", f"nothing is measured: {process.missing_feature()}")
        return loader
    watched, returned = _watched(loader, name)
    options = watched.options
    watched.options = replace(
        options,
        is_watch_called=True,
        default_mode=Mode.AUTO,
        mode=wanted_mode or options.mode,
        allow_workers=allow_workers or options.allow_workers,
        on_epoch=on_epoch or options.on_epoch,
        transport=transport or options.transport,
    )
    _join_endless(watched)
    return returned


def _watched(loader: L, name: str | None) -> tuple[WatchedLoader, L]:
    """Return the state of ``loader``, and the result of `watch`: the loader itself, or a wrapper."""
    if isinstance(loader, WatchedIterable):
        return loader._feedwater_watched, cast(L, loader)
    target = _data_loader_in(loader)
    if target is not None and _install_hooks():
        return _watched_for(target, name), loader
    watched = _new(name)
    return watched, cast(L, WatchedIterable(loader, watched))


def state_of(loader: object) -> WatchedLoader:
    """Return the state of a watched loader, up to its last batch.

    Raises:
        ValueError: It is not watched.
    """
    watched = _find(loader)
    if watched is None:
        raise ValueError(f"loader must be one that feedwater.watch was given, got {_type(loader)}")
    if watched.recording.probe is not None:
        with guard.swallow("storing the last batches"):
            watched.recording.probe.flush()
    return watched


def _find(loader: object) -> WatchedLoader | None:
    if isinstance(loader, WatchedIterable):
        return loader._feedwater_watched
    target = _data_loader_in(loader)
    return None if target is None else registry.of(target) or adoption.adopt(target)


def _data_loader_in(loader: object) -> object | None:
    """Return the ``DataLoader`` that ``loader`` is, or that it contains after Accelerate's ``prepare``."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is None:
        return None
    if not isinstance(loader, torch_data.DataLoader):
        # fastai's loader passes a substitute for itself to PyTorch's iterators.
        inner = getattr(loader, "fake_l", None)
        return cast(object, inner) if isinstance(getattr(inner, "_dataset_kind", None), int) else None
    # Accelerate's shard reports its base loader's class; its own __iter__ calls the base loader's.
    if not issubclass(type(loader), torch_data.DataLoader):
        return cast(object, getattr(loader, "base_dataloader", None))
    return cast(object, loader)


def _install_hooks() -> bool:
    from feedwater.loop.attach import hooks

    return hooks.ensure_installed("loaders are measured through a wrapper, not tuned")


def _watched_for(loader: object, name: str | None) -> WatchedLoader:
    watched = registry.of(loader) or _named(name) or adoption.adopt(loader, name)
    if watched is None:
        watched = _new(name)
    elif name is not None and watched.recording.transport is None:
        watched.options = replace(watched.options, name=name, is_named_by_user=True)
    if registry.of(loader) is not watched:
        adoption.register(loader, watched)
    return watched


def _new(name: str | None) -> WatchedLoader:
    return WatchedLoader(options=WatchOptions(name=_new_name(name), is_named_by_user=name is not None))


def _named(name: str | None) -> WatchedLoader | None:
    """Return the loader of that name: a script may rebuild it for each epoch. None while it is iterated."""
    watched = registry.named(name) if name is not None else None
    return None if watched is None or watched.recording.is_iterating else watched


def _new_name(name: str | None) -> str:
    if name is None:
        return registry.new_name()
    if registry.named(name) is None:
        return name
    other = registry.another_name(name)
    log_once(f"name {name}", f"two loaders are called {name!r}; the newer one is {other!r}")
    return other


def _join_endless(watched: WatchedLoader) -> None:
    """Measure an only iterator that is older than `watch`, as that of timm's multi-epoch loader."""
    from feedwater.loop.attach import hooks

    loader = watched.loader_in_use()
    for attribute, value in list(vars(loader).items()) if loader is not None else []:
        if attribute != "_iterator" and hasattr(type(value), "_feedwater_probe"):
            hooks.join(watched, loader, value)


def _check_loader(loader: object) -> None:
    if loader is None or isinstance(loader, (str, bytes, type)) or not isinstance(loader, Iterable):
        hint = "; pass the DataLoader, not its dataset" if hasattr(loader, "__getitem__") else ""
        raise TypeError(
            f"loader must be a DataLoader or another iterable of batches, got {_type(loader)}{hint}"
        )
    if hasattr(type(loader), "_feedwater_probe") or _is_loader_iterator(loader):
        raise TypeError(f"loader must be the DataLoader itself, got its iterator ({_type(loader)})")


def _is_loader_iterator(loader: object) -> bool:
    module = sys.modules.get("torch.utils.data.dataloader")
    base = getattr(module, "_BaseDataLoaderIter", None)
    return base is not None and isinstance(loader, base)


def _check_options(name: object, allow_workers: object, on_epoch: object, transport: object) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a string, got {_type(name)}")
    if name is not None and not name.strip():
        raise ValueError(f"name must be a non-empty string, got {name!r}")
    if not isinstance(allow_workers, bool):
        raise TypeError(f"allow_workers must be True or False, got {_type(allow_workers)}")
    if on_epoch is not None and not callable(on_epoch):
        raise TypeError(f"on_epoch must be callable with (EpochSummary, Answer), got {_type(on_epoch)}")
    if transport is not None and not all(callable(getattr(transport, m, None)) for m in _METHODS):
        raise TypeError(f"transport must be a feedwater.Transport, got {_type(transport)}")


_METHODS = (
    "register_loader",
    "begin_epoch",
    "end_epoch",
    "get_recommendation",
    "report_applied",
    "release_ring",
    "request_preview",
    "take_preview",
    "close",
)


def _mode(mode: Mode | str | None) -> Mode | None:
    if mode is None or isinstance(mode, Mode):
        return mode
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a string, got {_type(mode)}")
    try:
        return Mode(mode)
    except ValueError:
        allowed = ", ".join(m.value for m in Mode)
        raise ValueError(f"mode must be one of {allowed}, got {mode!r}") from None


def _type(value: object) -> str:
    return (
        "None"
        if value is None
        else f"the class {value.__name__}"
        if isinstance(value, type)
        else (type(value).__name__)
    )
