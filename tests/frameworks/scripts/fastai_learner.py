"""fastai's Learner, whose DataLoader is none of PyTorch's: python fastai_learner.py."""

from __future__ import annotations

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.torch_core import set_seed
from synthetic import FEATURES, Journal, Samples, Validation


class Notes(Callback):
    """Notes each batch."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def before_batch(self) -> None:
        self.journal.batch("train" if self.training else "val", self.y)

    def after_epoch(self) -> None:
        self.journal.epoch()


def main() -> None:
    """Fit."""
    set_seed(0, reproducible=True)
    journal = Journal()
    loaders = DataLoaders(
        DataLoader(Samples(120, 0.01), bs=4, shuffle=True, num_workers=1),
        DataLoader(Validation(80, 0.01), bs=4, num_workers=1),
        device=torch.device("cpu"),
    )
    learner = Learner(
        loaders,
        torch.nn.Linear(FEATURES, 2),
        loss_func=lambda predicted, _: predicted.square().mean(),
        cbs=[Notes(journal)],
    )
    with learner.no_logging():
        learner.fit(4)
    journal.write()


if __name__ == "__main__":
    main()
