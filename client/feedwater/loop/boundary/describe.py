"""What the sidecar is told of a loader, and what a person recognises it by."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from feedwater.loop import watched
from feedwater.loop.attach import origin
from feedwater.loop.change import apply, safety
from feedwater.values import LoaderDescription, Mode

if TYPE_CHECKING:
    from feedwater.loop.watched import Mark

MAX_CLASS = 40
"""Characters of a data set's class in a label."""


def describe(mark: Mark, loader: object, mode: Mode) -> LoaderDescription:
    """Return what the sidecar is told of a loader; its settings are the user's own."""
    torch = sys.modules.get("torch")
    is_loader = mark.dataset_kind != "none"
    return LoaderDescription(
        name=mark.name,
        settings=mark.own_settings or apply.settings_of(loader),
        mode=mode,
        dataset_kind=mark.dataset_kind,
        batch_size=batch_size(loader),
        batches_per_epoch=apply.length_of(loader) if mark.dataset_kind == "map" else None,
        start_method=safety.start_method(loader) if is_loader else "",
        can_apply=mark.can_apply and not safety.depends_on_count(mark, loader),
        uses_cuda=torch is not None and bool(torch.cuda.is_initialized()),
        label=mark.label,
        shards=shards_of(watched.dataset_of(loader)) if mark.dataset_kind == "iterable" else None,
    )


def dataset_kind(loader: object) -> str:
    """Return "map" or "iterable"; "none" for what is no ``DataLoader``."""
    kind = getattr(loader, "_dataset_kind", None)
    return "none" if kind is None else "map" if kind == 0 else "iterable"


def batch_size(loader: object) -> int | None:
    """Return the samples of a batch, as the loader or its batch sampler says; None where neither does."""
    for owner in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "d", None)):
        size = getattr(owner, "batch_size", None) or getattr(owner, "bs", None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def label(loader: object) -> str:
    """Return what a person recognises a loader by: ``MNIST[60000], batches of 64, train.py:42``."""
    dataset = watched.dataset_of(loader)
    if dataset is None:
        return ""
    length, size, made = apply.length_of(dataset), batch_size(loader), origin.of(loader)
    parts = [_class_name(dataset) + (f"[{length}]" if length is not None else "")]
    if size is not None:
        parts.append(f"batches of {size}")
    if made is not None and made.place:
        parts.append(made.place)
    return ", ".join(parts)


def _class_name(dataset: object) -> str:
    inner, name = dataset, type(dataset).__name__
    while name == "Subset" and getattr(inner, "dataset", None) is not None:
        inner = inner.dataset  # type: ignore[attr-defined]
        name = type(inner).__name__
    return (name if inner is dataset else f"Subset of {name}")[:MAX_CLASS]


def shards_of(dataset: object) -> int | None:
    """Return the shards of an ``IterableDataset``, of which each worker takes some; None if it does not say.

    More workers than that get nothing. Of one rank, where the data set divides its shards among ranks.
    """
    for rule in _SHARD_RULES:
        try:
            count = rule(dataset)
        except Exception:  # The data set's own code, and its private names.
            continue
        if count is not None and count > 0:
            return count
    return None


def _stated(dataset: object) -> int | None:
    """Hugging Face ``datasets``: ``num_shards``, once ``n_shards``; this rank's after ``split_by_node``."""
    if not _is_of(dataset, "datasets"):
        return None
    count = getattr(dataset, "num_shards", None) or getattr(dataset, "n_shards", None)
    return count if isinstance(count, int) else None


def _urls(dataset: object) -> int | None:
    """webdataset: the list of its first stage's URLs, which ranks divide, then workers."""
    stages = getattr(dataset, "pipeline", None)
    if not isinstance(stages, list) or not stages:
        return None
    urls = getattr(stages[0], "urls", None)
    if not isinstance(urls, (list, tuple)):
        return None
    return max(1, len(urls) // _world_size())


def _chunks(dataset: object) -> int | None:
    """litdata: the chunks of its index, which ranks and workers divide."""
    directory = getattr(getattr(dataset, "input_dir", None), "path", None)
    if not _is_of(dataset, "litdata") or not isinstance(directory, str):
        return None
    with open(os.path.join(directory, "index.json")) as file:
        return max(1, len(json.load(file)["chunks"]) // _world_size())


def _is_of(dataset: object, package: str) -> bool:
    """Whether its class, or one that it is derived from, is a package's."""
    return any(base.__module__.partition(".")[0] == package for base in type(dataset).__mro__)


_SHARD_RULES: tuple[Callable[[object], int | None], ...] = (_stated, _urls, _chunks)


def _world_size() -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())
