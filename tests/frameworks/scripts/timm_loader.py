"""timm's loaders: python timm_loader.py (prefetcher | plain | multi-epochs)."""

from __future__ import annotations

import numpy
import torch
from synthetic import Journal, Samples, step, variant
from timm.data import create_loader

EPOCHS = 4
SIDE = 8


class Images(Samples):
    """Small pictures, as timm's collate function takes them; the `transform` that it sets is not used."""

    transform = None

    def __getitem__(self, index: int) -> tuple[numpy.ndarray, int]:
        _, code = super().__getitem__(index)
        return numpy.zeros((3, SIDE, SIDE), dtype=numpy.uint8), code


class Tensors(Images):
    """The same as tensors: PyTorch's own collate function is used without the prefetcher."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture, code = super().__getitem__(index)
        return torch.from_numpy(picture), code


def main(chosen: str) -> None:
    """Train."""
    journal = Journal()
    torch.manual_seed(0)
    uses_prefetcher = chosen != "plain"
    loader = create_loader(
        (Images if uses_prefetcher else Tensors)(120, 0.01),
        input_size=(3, SIDE, SIDE),
        batch_size=4,
        is_training=True,
        use_prefetcher=uses_prefetcher,
        use_multi_epochs_loader=chosen == "multi-epochs",
        num_workers=1,
        persistent_workers=False,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    for _ in range(EPOCHS):
        for _, codes in loader:
            journal.batch("train", codes)
            step()
        journal.epoch()
    journal.write()


if __name__ == "__main__":
    main(variant(("prefetcher", "plain", "multi-epochs")))
