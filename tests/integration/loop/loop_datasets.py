"""Datasets of the loop's tests: module level, so that spawned workers can import them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info


class Numbers(Dataset[torch.Tensor]):
    """Sample ``i`` is the number i."""

    def __init__(self, length: int = 48, load_seconds: float = 0.0) -> None:
        self.length = length
        self.load_seconds = load_seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.load_seconds:
            time.sleep(self.load_seconds)
        return torch.tensor([index])


class Sharded(IterableDataset[torch.Tensor]):
    """Numbers below ``length``, each in one worker."""

    def __init__(self, length: int = 24) -> None:
        self.length = length

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        return (torch.tensor([i]) for i in range(first, self.length, step))


class Failing(Numbers):
    """Raises at one index."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 9:
            raise KeyError("sample 9 is broken")
        return super().__getitem__(index)


class Dying(Numbers):
    """Kills the worker that loads one index; the main process it spares."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 40 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class OneFile(Dataset[int]):
    """Opens its file in ``__init__``: forked workers share the offset."""

    RECORD_BYTES = 8

    def __init__(self, length: int = 4000) -> None:
        self.path = Path(tempfile.mkdtemp()) / "records"
        self.path.write_bytes(b"".join(i.to_bytes(self.RECORD_BYTES, "little") for i in range(length)))
        self.length = length
        self.file = open(self.path, "rb", buffering=0)  # noqa: SIM115

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        self.file.seek(index * self.RECORD_BYTES)
        time.sleep(1e-4)  # Let another worker move the offset.
        return int.from_bytes(self.file.read(self.RECORD_BYTES), "little")


class NeedsNoWorker(Numbers):
    """Fails in any worker, as a dataset of CUDA tensors does in a forked one."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if get_worker_info() is not None:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return super().__getitem__(index)


class NeedsWorker(Numbers):
    """Fails without a worker."""

    def __getitem__(self, index: int) -> torch.Tensor:
        assert get_worker_info() is not None, "only in a worker"
        return super().__getitem__(index)


class Noisy(Numbers):
    """Draws from the generator of the process that loads."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index]) + torch.rand(1)


class Nested(Numbers):
    """Iterates a loader of its own for each sample."""

    def __getitem__(self, index: int) -> torch.Tensor:
        inner = torch.utils.data.DataLoader(Numbers(4), batch_size=2)
        return torch.tensor([index + 0 * sum(int(b.sum()) for b in inner)])


class EagerSampler(Sampler[int]):
    """Draws its order when asked for an iterator, as many users' samplers do."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.length).tolist())


class EagerBatches(Sampler[list[int]]):
    """Draws the order of its batches when asked for an iterator."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length // self.size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.length).tolist()
        return iter([order[i : i + self.size] for i in range(0, self.length, self.size)])


def seed_worker(worker_id: int, num_workers: int = 0, rank: int = 0) -> None:
    """Fail where the count frozen in a ``partial`` is not that of the loader, as it would seed wrongly."""
    info = get_worker_info()
    assert info is not None
    assert info.num_workers == num_workers
