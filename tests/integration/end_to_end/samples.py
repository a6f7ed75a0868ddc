"""The dataset of trainers whose loads block."""

from __future__ import annotations

import time

import torch


class Samples:
    """Numbered samples that block for a while."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self._seconds)
        return torch.full((16,), float(index))
