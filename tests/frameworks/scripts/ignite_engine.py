"""pytorch-ignite's Engine: python ignite_engine.py."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from synthetic import Journal, Samples, step
from torch.utils.data import DataLoader


def main() -> None:
    """Train."""
    journal = Journal()
    torch.manual_seed(0)

    def update(_: Engine, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        journal.batch("train", batch[1])
        step()

    engine = Engine(update)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: journal.epoch())
    engine.run(DataLoader(Samples(120, 0.01), batch_size=4, shuffle=True, num_workers=1), max_epochs=4)
    journal.write()


if __name__ == "__main__":
    main()
