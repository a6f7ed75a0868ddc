"""Describes a loader to the sidecar, and labels it for a person."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from feedwater.loop import dataloader, origin
from feedwater.loop.change import safety
from feedwater.loop.change.tuning import Tuning
from feedwater.loop.watched import WatchOptions
from feedwater.values import LoaderDescription, Mode

MAX_CLASS = 40
"""Characters of a dataset's class in a label."""


def describe(options: WatchOptions, tuning: Tuning, loader: object, mode: Mode) -> LoaderDescription:
    """Return the description of a loader for the sidecar, with the user's own settings."""
    torch = sys.modules.get("torch")
    kind = dataloader.dataset_kind(loader)
    depends_on_count = bool(safety.depends_on_count(loader)) and not options.allow_workers
    return LoaderDescription(
        name=options.name,
        settings=tuning.user_settings or dataloader.settings_of(loader),
        mode=mode,
        dataset_kind=kind,
        batch_size=dataloader.batch_size(loader),
        batches_per_epoch=dataloader.length_of(loader) if kind == "map" else None,
        start_method=safety.start_method(loader) if kind != "none" else "",
        can_apply=tuning.can_apply and not depends_on_count,
        uses_cuda=torch is not None and bool(torch.cuda.is_initialized()),
        label=label(loader),
        shards=shards_of(dataloader.dataset_of(loader)) if kind == "iterable" else None,
    )


def label(loader: object) -> str:
    """Return a label for a person: ``MNIST[60000], batches of 64, train.py:42``."""
    dataset = dataloader.dataset_of(loader)
    if dataset is None:
        return ""
    length, size = dataloader.length_of(dataset), dataloader.batch_size(loader)
    source = origin.of(loader)
    parts = [_class_name(dataset) + (f"[{length}]" if length is not None else "")]
    if size is not None:
        parts.append(f"batches of {size}")
    if source is not None and source.place:
        parts.append(source.place)
    return ", ".join(parts)


def _class_name(dataset: object) -> str:
    inner, name = dataset, type(dataset).__name__
    while name == "Subset" and getattr(inner, "dataset", None) is not None:
        inner = inner.dataset  # type: ignore[attr-defined]
        name = type(inner).__name__
    return (name if inner is dataset else f"Subset of {name}")[:MAX_CLASS]


def shards_of(dataset: object) -> int | None:
    """Return the number of shards that one rank's workers divide among them; None if it is not known.

    Workers beyond that number get no data.
    """
    for rule in _SHARD_RULES:
        try:
            count = rule(dataset)
        except Exception:  # The dataset's own code, or a private name that has changed.
            continue
        if count is not None and count > 0:
            return count
    return None


def _huggingface_shards(dataset: object) -> int | None:
    """Hugging Face ``datasets``: ``num_shards``, once ``n_shards``; this rank's after ``split_by_node``."""
    if not _is_of(dataset, "datasets"):
        return None
    count = getattr(dataset, "num_shards", None) or getattr(dataset, "n_shards", None)
    return count if isinstance(count, int) else None


def _webdataset_shards(dataset: object) -> int | None:
    """webdataset: the list of its first stage's URLs, which ranks divide, then workers."""
    stages = getattr(dataset, "pipeline", None)
    if not isinstance(stages, list) or not stages:
        return None
    urls = getattr(stages[0], "urls", None)
    if not isinstance(urls, (list, tuple)):
        return None
    return max(1, len(urls) // _world_size())


def _litdata_shards(dataset: object) -> int | None:
    """litdata: the chunks of its index, which ranks and workers divide."""
    directory = getattr(getattr(dataset, "input_dir", None), "path", None)
    if not _is_of(dataset, "litdata") or not isinstance(directory, str):
        return None
    with open(os.path.join(directory, "index.json")) as file:
        return max(1, len(json.load(file)["chunks"]) // _world_size())


def _is_of(dataset: object, package: str) -> bool:
    """Return whether the class of a dataset, or a base of it, is defined in ``package``."""
    return any(base.__module__.partition(".")[0] == package for base in type(dataset).__mro__)


_SHARD_RULES: tuple[Callable[[object], int | None], ...] = (
    _huggingface_shards,
    _webdataset_shards,
    _litdata_shards,
)


def _world_size() -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())
