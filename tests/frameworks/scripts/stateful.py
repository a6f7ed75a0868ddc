"""torchdata's StatefulDataLoader: python stateful.py (epochs | resume)."""

from __future__ import annotations

import itertools

import torch
from synthetic import Journal, Samples, step, variant
from torchdata.stateful_dataloader import StatefulDataLoader

EPOCHS = 4
RESUMED_AT = 12


def loader_of(dataset: Samples) -> StatefulDataLoader:
    """Return a shuffled loader with one worker."""
    return StatefulDataLoader(dataset, batch_size=4, shuffle=True, num_workers=1)


def main(chosen: str) -> None:
    """Train; resumed, the second epoch is broken off and gone on with by a new loader."""
    journal = Journal()
    torch.manual_seed(0)
    dataset = Samples(120, 0.01)
    loader = loader_of(dataset)
    for epoch in range(EPOCHS):
        is_interrupted = chosen == "resume" and epoch == 1
        for _, codes in itertools.islice(loader, RESUMED_AT if is_interrupted else None):
            journal.batch("train", codes)
            step()
        if is_interrupted:
            state = loader.state_dict()
            loader = loader_of(dataset)
            loader.load_state_dict(state)
            for _, codes in loader:
                journal.batch("train", codes)
        journal.epoch()
    journal.write()


if __name__ == "__main__":
    main(variant(("epochs", "resume")))
