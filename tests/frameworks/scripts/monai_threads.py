"""MONAI's ThreadDataLoader: python monai_threads.py."""

from __future__ import annotations

import torch
from monai.data import ThreadDataLoader
from synthetic import Journal, Samples, step

EPOCHS = 4


def main() -> None:
    """Train."""
    journal = Journal()
    torch.manual_seed(0)
    loader = ThreadDataLoader(Samples(120, 0.01), batch_size=4, shuffle=True, num_workers=1)
    for _ in range(EPOCHS):
        for _, codes in loader:
            journal.batch("train", codes)
            step()
        journal.epoch()
    journal.write()


if __name__ == "__main__":
    main()
