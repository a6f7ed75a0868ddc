"""Reads the facts of a ``DataLoader`` and changes nothing. Torch is not imported, so no class is named."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedwater.values import LoaderSettings

SAME_LENGTH = 2.0
"""Largest ratio of the lengths of two data sets whose loaders can continue each other: shards are seldom
equal, and training and validation data are seldom within it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The attributes that a loader shares with one that continues it."""

    dataset_class: type
    length: int
    """Length of the dataset; 0 where it has none."""
    batch_size: object
    sampler_class: type

    def is_like(self, other: Shape) -> bool:
        """Return whether all but the length is equal, and the lengths differ by `SAME_LENGTH` at most."""
        shorter, longer = sorted((self.length, other.length))
        return replace(self, length=0) == replace(other, length=0) and longer <= SAME_LENGTH * shorter


def settings_of(loader: object) -> LoaderSettings:
    """Return the settings that the next ``iter(loader)`` would use."""
    return LoaderSettings(
        num_workers=int(getattr(loader, "num_workers", 0)),
        prefetch_factor=getattr(loader, "prefetch_factor", None),
        persistent_workers=bool(getattr(loader, "persistent_workers", False)),
        pin_memory=bool(getattr(loader, "pin_memory", False)),
        in_order=getattr(loader, "in_order", None),
    )


def length_of(loader: object) -> int | None:
    """Return ``len()`` of a loader or a dataset; None where it has none."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except Exception:  # A dataset's __len__ is the user's code.
        return None


def dataset_of(loader: object) -> object:
    """Return the loader's dataset, without shard wrappers (Accelerate's ``IterableDatasetShard``)."""
    dataset = getattr(loader, "dataset", None)
    if dataset is loader:  # fastai's substitute for a DataLoader is its own dataset.
        return getattr(getattr(loader, "d", None), "dataset", None)
    while type(dataset).__name__ in {"IterableDatasetShard", "_IterDataPipeSerializationWrapper"}:
        dataset = getattr(dataset, "dataset", None) or getattr(dataset, "_datapipe", None)
    return dataset


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


def shape_of(loader: object) -> Shape | None:
    """Return the shape of a loader; None where it has no dataset."""
    dataset = dataset_of(loader)
    if dataset is None:
        return None
    sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(sampler, "sampler", None) or getattr(loader, "sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    return Shape(type(dataset), length_of(dataset) or 0, size, type(inner))
