"""What `feedwater.watch` does: checks its arguments, marks the loader, and sees to the hooks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar, cast

from feedwater.loop import process, watched
from feedwater.loop.attach.iterable import WatchedIterable
from feedwater.loop.log import say_once
from feedwater.loop.watched import Mark, OnEpoch
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
    """Mark ``loader``, or wrap it; see `feedwater.watch`."""
    _check_loader(loader)
    _check_options(name, allow_workers, on_epoch, transport)
    wanted_mode = _mode(mode)
    if process.settings().disabled:
        return loader
    if process.lacks():
        say_once("lacks", f"nothing is measured: {process.lacks()}")
        return loader
    mark, marked = _marked(loader, name)
    _set_options(mark, wanted_mode, allow_workers, on_epoch, transport)
    _join_endless(mark)
    return marked


def _marked(loader: L, name: str | None) -> tuple[Mark, L]:
    if isinstance(loader, WatchedIterable):
        return loader._feedwater_mark, cast(L, loader)
    target = _data_loader_in(loader)
    if target is not None and _is_hooked():
        return _mark_for(target, name), loader
    mark = Mark(_new_name(name), named_by_user=name is not None)
    return mark, cast(L, WatchedIterable(loader, mark))


def mark_of(loader: object) -> Mark:
    """Return the mark of a watched loader, up to its last batch.

    Raises:
        ValueError: It has none.
    """
    mark = _mark_in(loader)
    if mark is None:
        raise ValueError(f"loader must be one that feedwater.watch was given, got {_type(loader)}")
    if mark.probe is not None:
        mark.probe.fold()
    return mark


def _mark_in(loader: object) -> Mark | None:
    if isinstance(loader, WatchedIterable):
        return loader._feedwater_mark
    target = _data_loader_in(loader)
    return None if target is None else watched.of(target) or watched.adopt(target)


def _data_loader_in(loader: object) -> object | None:
    """Return the ``DataLoader`` that ``loader`` is or (after Accelerate's ``prepare``) has."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is None:
        return None
    if not isinstance(loader, torch_data.DataLoader):
        # fastai's loader has PyTorch's iterators made of a stand-in.
        inner = getattr(loader, "fake_l", None)
        return cast(object, inner) if isinstance(getattr(inner, "_dataset_kind", None), int) else None
    # Accelerate's shard claims its base loader's class; its own __iter__ goes through the base loader.
    if not issubclass(type(loader), torch_data.DataLoader):
        return cast(object, getattr(loader, "base_dataloader", None))
    return cast(object, loader)


def _is_hooked() -> bool:
    """Install the hooks; False, said once, where this PyTorch has moved what they need."""
    from feedwater.loop.attach import hooks

    moved = hooks.missing()
    if moved:
        say_once("moved", f"loaders are measured through a wrapper, not tuned: this PyTorch has no {moved}")
        return False
    hooks.install()
    return True


def _mark_for(loader: object, name: str | None) -> Mark:
    mark = watched.of(loader) or _named(name) or watched.adopt(loader, name)
    if mark is None:
        mark = Mark(_new_name(name), named_by_user=name is not None)
    elif name is not None and mark.transport is None:
        mark.name, mark.named_by_user = name, True
    if watched.of(loader) is not mark:
        watched.put(loader, mark)
    return mark


def _named(name: str | None) -> Mark | None:
    """Return the mark of that name: a loader that a script builds anew each epoch is the same loader."""
    mark = watched.named(name) if name is not None else None
    return None if mark is None or mark.is_iterating else mark


def _new_name(name: str | None) -> str:
    if name is None:
        return watched.new_name()
    if watched.named(name) is None:
        return name
    other = f"{name}-{watched.new_name().rpartition('-')[2]}"
    say_once(f"name {name}", f"two loaders are called {name!r}; the newer one is {other!r}")
    return other


def _join_endless(mark: Mark) -> None:
    """Note a loader that made its only iterator before it was watched, as timm's multi-epoch loader does."""
    from feedwater.loop.attach import hooks

    loader = mark.loader() if mark.loader is not None else None
    for attribute, value in list(vars(loader).items()) if loader is not None else []:
        if attribute != "_iterator" and hasattr(type(value), "_feedwater_probe"):
            hooks.join(mark, loader, value)


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


def _set_options(
    mark: Mark,
    mode: Mode | None,
    allow_workers: bool,
    on_epoch: OnEpoch | None,
    transport: Transport | None,
) -> None:
    mark.default_mode, mark.is_asked_for = Mode.AUTO, True
    mark.mode = mode or mark.mode
    mark.allow_workers = allow_workers or mark.allow_workers
    mark.on_epoch = on_epoch or mark.on_epoch
    mark.given_transport = transport or mark.given_transport


def _type(value: object) -> str:
    return (
        "None"
        if value is None
        else f"the class {value.__name__}"
        if isinstance(value, type)
        else (type(value).__name__)
    )
