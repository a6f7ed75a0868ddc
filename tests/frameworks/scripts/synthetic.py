"""Samples that are slow to load, and a journal of the batches that a training got.

Each sample carries a code: its index, and the number of workers when it was loaded. So any framework's batch
tells both, whatever the framework does to loaders and batches.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset, get_worker_info

MOST_WORKERS = 1000
FEATURES = 4


def code_of(index: int) -> int:
    """Return the code of the sample at ``index``, loaded here and now."""
    info = get_worker_info()
    return index * MOST_WORKERS + (0 if info is None else info.num_workers)


class Samples(Dataset):
    """``count`` pairs of features and code, each of which takes ``seconds`` to load."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        time.sleep(self._seconds)
        return torch.full((FEATURES,), index / self._count), code_of(index)


class Validation(Samples):
    """The same for validation; a class of its own, so that a log can tell which is which."""


class Named(Samples):
    """The same as dictionaries, as Hugging Face's trainer has them."""

    def __getitem__(self, index: int) -> dict[str, object]:
        features, code = super().__getitem__(index)
        return {"features": features, "labels": code}


class NamedValidation(Named):
    """The same for evaluations."""


class Journal:
    """What this process' loaders gave it: ids and workers of each batch, and the descriptors it had open."""

    def __init__(self) -> None:
        self._ids: dict[str, list[list[int]]] = {}
        self._workers: dict[str, list[int]] = {}
        self._descriptors: list[int] = []

    def batch(self, loader: str, codes: torch.Tensor) -> None:
        """Note a batch by its samples' codes."""
        found = [int(code) for code in codes.reshape(-1)]
        self.note(
            loader, [code // MOST_WORKERS for code in found], max(code % MOST_WORKERS for code in found)
        )

    def note(self, loader: str, ids: list[int], workers: int) -> None:
        """Note a batch by its samples' ids and the workers that there were."""
        self._ids.setdefault(loader, []).append(ids)
        self._workers.setdefault(loader, []).append(workers)

    def epoch(self) -> None:
        """Note that an epoch or an evaluation has ended: how many descriptors are open."""
        self._descriptors.append(len(os.listdir("/proc/self/fd")))

    def write(self) -> None:
        """Write the journal into the directory ``FRAMEWORKS_JOURNAL``; without it, show it in short."""
        told = {"ids": self._ids, "workers": self._workers, "descriptors": self._descriptors, "rank": _rank()}
        directory = os.environ.get("FRAMEWORKS_JOURNAL")
        if directory:
            Path(directory, f"{_rank()}-{os.getpid()}.json").write_text(json.dumps(told))
            return
        for loader, workers in self._workers.items():
            print(f"rank {_rank()}, {loader}: {len(workers)} batches, workers {lengths(workers)}")
        first, most = self._descriptors[0], max(self._descriptors)
        print(f"rank {_rank()}: {first} descriptors after the first epoch, later at most {most}")


class Model(torch.nn.Module):
    """A linear layer that notes each batch it is given: training's by the name train, others by val."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(FEATURES, 2)
        # Not an attribute of the module: a framework may copy, save or move what is.
        object.__setattr__(self, "_journal", journal)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        self._journal.batch("train" if self.training else "val", labels)
        return self.layer(features).square().mean()


def lengths(values: list[int]) -> str:
    """Return the runs of equal values: [1, 1, 8, 8, 8] is "1 x2, 8 x3"."""
    return ", ".join(f"{value} x{len([*same])}" for value, same in itertools.groupby(values))


def step() -> None:
    """Stand for a training step of 2 ms on a device."""
    time.sleep(0.002)


def variant(choices: tuple[str, ...]) -> str:
    """Return the variant that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in choices:
        raise SystemExit(f"usage: {sys.argv[0]} ({' | '.join(choices)})")
    return sys.argv[1]


def _rank() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "0"))
