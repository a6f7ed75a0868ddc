"""Lightning's Trainer: python lightning_fit.py VARIANT."""

from __future__ import annotations

import lightning
import torch
from synthetic import Journal, Model, Samples, Validation, variant
from torch.utils.data import DataLoader

COUNT = 120
SECONDS = 0.01


class Module(lightning.LightningModule):
    """A linear layer that notes its batches."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.model = Model(journal)
        object.__setattr__(self, "_notes", journal)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.model(*batch)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.model(*batch)

    def on_train_epoch_end(self) -> None:
        self._notes.epoch()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Data(lightning.LightningDataModule):
    """Loaders of one worker each; made anew whenever Lightning asks."""

    def __init__(self, count: int, **options: object) -> None:
        super().__init__()
        self._train, self._val = Samples(count, SECONDS), Validation(count // 2, SECONDS)
        self._options = {"batch_size": 4, "num_workers": 1, **options}

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self._train, shuffle=True, **self._options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._val, **self._options)


OPTIONS: dict[str, dict[str, object]] = {
    "fit": {},
    "val-check-interval": {"val_check_interval": 0.25, "max_epochs": 3},
    "reload": {"reload_dataloaders_every_n_epochs": 1},
    "persistent": {},
    "few-validation-batches": {"limit_val_batches": 5},
    "ddp": {"strategy": "ddp", "devices": 2},
}


def main(chosen: str) -> None:
    """Fit."""
    lightning.seed_everything(0, verbose=False)
    journal = Journal()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"devices": 1, "max_epochs": 4, **OPTIONS[chosen]},
    )
    persistent = {"persistent_workers": True} if chosen == "persistent" else {}
    trainer.fit(Module(journal), Data(160 if chosen == "ddp" else COUNT, **persistent))
    journal.write()


if __name__ == "__main__":
    main(variant(tuple(OPTIONS)))
