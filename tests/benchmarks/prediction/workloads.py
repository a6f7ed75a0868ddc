"""What the benchmark trains on: datasets whose cost per batch is known, and a step to consume them."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset


def burn(seconds: float) -> None:
    """Use so much CPU time of this thread, however long that takes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Timed(Dataset[torch.Tensor]):
    """Items that block and compute for given times; drawn by index, so that each epoch costs the same."""

    def __init__(self, items: int, blocked: Callable[[int], float], cpu: float, shape: Sequence[int]) -> None:
        self.items, self.blocked, self.cpu, self.shape = items, blocked, cpu, tuple(shape)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        blocked = self.blocked(index)
        if blocked > 0:
            time.sleep(blocked)
        if self.cpu > 0:
            burn(self.cpu)
        return torch.full(self.shape, float(index))


class Several(Timed):
    """The same in many tensors: each is moved by itself."""

    def __getitem__(self, index: int) -> list[torch.Tensor]:  # type: ignore[override]
        first = super().__getitem__(index)
        return [first.clone() for _ in range(20)]


class Jpegs(Dataset[torch.Tensor]):
    """JPEG files in memory, decoded and shrunk by Pillow."""

    def __init__(self, items: int) -> None:
        from PIL import Image

        self.items = items
        noise = random.Random(7)
        self.files = []
        for _ in range(16):
            small = Image.frombytes("RGB", (32, 32), noise.randbytes(32 * 32 * 3))
            out = io.BytesIO()
            small.resize((480, 360), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
            self.files.append(out.getvalue())

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB").resize((128, 128))
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(128, 128, 3)


class Tiny(Dataset[torch.Tensor]):
    """Rows of one tensor in memory."""

    def __init__(self, items: int) -> None:
        self.rows = torch.arange(items * 8, dtype=torch.float32).view(items, 8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.rows[index]


class Constant:
    """The same blocked time for each item."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, index: int) -> float:
        return self.seconds


class LogNormal:
    """Heavy-tailed blocked times of a given mean."""

    def __init__(self, mean: float, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma

    def __call__(self, index: int) -> float:
        drawn = random.Random(index).lognormvariate(-(self.sigma**2) / 2, self.sigma)
        return self.mean * drawn


@dataclass(frozen=True)
class Case:
    """One workload on one machine."""

    name: str
    make: Callable[[int], Dataset[torch.Tensor]]
    """From the number of items."""
    batch_size: int
    step_cpu: float
    step_timed: float
    batches: int
    quota_cores: float | None = None
    counts: tuple[int, ...] = (0, 1, 2, 4, 8)

    def step(self) -> None:
        """Consume one batch."""
        if self.step_cpu:
            burn(self.step_cpu)
        if self.step_timed:
            time.sleep(self.step_timed)


def _cpu_bound(items: int) -> Timed:
    return Timed(items, Constant(0.0), 0.004, (64,))


def _heavy(items: int) -> Timed:
    return Timed(items, Constant(0.0), 0.005, (64,))


def _io_bound(items: int) -> Timed:
    return Timed(items, Constant(0.008), 0.0003, (64,))


def _mixed(items: int) -> Timed:
    return Timed(items, Constant(0.006), 0.002, (64,))


def _tail(items: int) -> Timed:
    return Timed(items, LogNormal(0.02, 1.2), 0.0005, (64,))


def _large(items: int) -> Timed:
    return Timed(items, Constant(0.01), 0.0, (1 << 20,))


def _many(items: int) -> Several:
    return Several(items, Constant(0.006), 0.0, (256,))


MORE = (0, 1, 2, 4, 8, 16)
CASES = (
    Case("io", _io_bound, 4, 0.0, 0.002, 200, counts=MORE),
    Case("io-cpu-step", _io_bound, 4, 0.002, 0.0, 200, counts=MORE),
    Case("cpu", _cpu_bound, 2, 0.0, 0.003, 200),
    Case("cpu-0.5", _cpu_bound, 2, 0.0, 0.003, 120, 0.5),
    Case("cpu-1.0", _cpu_bound, 2, 0.0, 0.003, 160, 1.0),
    Case("cpu-1.5", _cpu_bound, 2, 0.0, 0.003, 200, 1.5),
    Case("heavy", _heavy, 2, 0.004, 0.0, 160),
    Case("heavy-0.5", _heavy, 2, 0.004, 0.0, 90, 0.5),
    Case("heavy-1.0", _heavy, 2, 0.004, 0.0, 120, 1.0),
    Case("mixed", _mixed, 4, 0.001, 0.002, 160),
    Case("mixed-1.0", _mixed, 4, 0.001, 0.002, 120, 1.0),
    Case("tail", _tail, 1, 0.0, 0.004, 250, counts=MORE),
    Case("tiny", Tiny, 16, 0.0, 0.0005, 1500, counts=(0, 1, 2, 4)),
    Case("jpeg", Jpegs, 8, 0.0, 0.004, 160),
    Case("jpeg-1.0", Jpegs, 8, 0.0, 0.004, 120, 1.0),
    Case("large-batches", _large, 4, 0.0, 0.004, 120),
    Case("many-tensors", _many, 2, 0.0, 0.002, 120),
)
