"""Watches every ``DataLoader`` of a process without an edit of its script, for ``feedwater run``."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from feedwater import guard
from feedwater.loop import process, registry
from feedwater.loop.attach import adoption
from feedwater.loop.change import safety
from feedwater.loop.log import log_once
from feedwater.loop.watched import WatchedLoader, WatchOptions
from feedwater.values import Mode

TORCH_MODULE = "torch.utils.data"
TORCHDATA_MODULE = "torchdata.stateful_dataloader.stateful_dataloader"


def watch_every_loader(default_mode: Mode = Mode.ADVISE) -> None:
    """Watch all loaders of this process, from now on or from when PyTorch is loaded.

    Args:
        default_mode: The mode where ``FEEDWATER_MODE`` names none.
    """
    if process.settings().disabled:
        return
    if process.missing_feature():
        log_once("lacks", f"nothing is measured: {process.missing_feature()}")
        return
    global _default_mode
    _default_mode = default_mode
    _start_when_loaded(TORCH_MODULE, "DataLoader")
    _start_when_loaded(TORCHDATA_MODULE, "StatefulDataLoader")


def _start_when_loaded(module: str, class_name: str) -> None:
    if hasattr(sys.modules.get(module), class_name):
        _start()
    else:
        sys.meta_path.insert(0, _ImportTrigger(module))


_default_mode = Mode.ADVISE


def _start() -> None:
    with guard.swallow("watching every loader"):
        from feedwater.loop.attach import hooks

        if hooks.ensure_installed("nothing is measured"):
            hooks.find_loaders_with(find)


def find(loader: object) -> WatchedLoader | None:
    """Return the state of ``loader``, a new one if it is not watched; None for trial loads and in workers."""
    watched = registry.of(loader)
    if watched is not None:
        return watched
    if safety.is_trial(loader) or _is_worker():
        return None
    watched = adoption.adopt(loader)
    if watched is None:
        options = WatchOptions(name=registry.new_name(), default_mode=_default_mode)
        watched = WatchedLoader(options=options)
        adoption.register(loader, watched)
    return watched


def _is_worker() -> bool:
    from torch.utils.data import get_worker_info

    return get_worker_info() is not None


class _ImportTrigger(importlib.abc.MetaPathFinder):
    """Calls `_start` when a module has been imported. It finds no module itself."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        with guard.swallow("waiting for PyTorch"):  # Another importer may have removed it.
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _StartingLoader(spec.loader)
        return spec


class _StartingLoader(importlib.abc.Loader):
    """A module loader that calls `_start` after the module's own loader has run."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _start()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)
