"""Accelerate's prepare(): python accelerated.py (map | dispatch), also under torchrun."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from synthetic import Journal, Model, Samples, variant
from torch.utils.data import DataLoader, IterableDataset

COUNT = 240
EPOCHS = 4


class Stream(IterableDataset):
    """Samples one after the other."""

    def __iter__(self) -> Iterator[object]:
        samples = Samples(COUNT, 0.01)
        return (samples[index] for index in range(COUNT))


def main(chosen: str) -> None:
    """Train."""
    journal = Journal()
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=chosen == "dispatch")
    )
    set_seed(0)
    model = Model(journal)
    dataset = Stream() if chosen == "dispatch" else Samples(COUNT, 0.01)
    loader = DataLoader(dataset, batch_size=4, shuffle=chosen == "map", num_workers=1)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=1e-3), loader
    )
    for _ in range(EPOCHS):
        for features, codes in loader:
            optimizer.zero_grad()
            accelerator.backward(model(features, codes))
            optimizer.step()
        journal.epoch()
    journal.write()
    accelerator.end_training()


if __name__ == "__main__":
    main(variant(("map", "dispatch")))
