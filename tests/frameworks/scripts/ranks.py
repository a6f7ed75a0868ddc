"""Two ranks with gloo: started by torchrun (python -m torch.distributed.run ranks.py env), or by mp.spawn."""

from __future__ import annotations

import os
import tempfile

import torch
import torch.distributed as dist
from synthetic import FEATURES, Journal, Samples, variant
from torch import multiprocessing
from torch.utils.data import DataLoader, DistributedSampler

COUNT = 240
EPOCHS = 4
RANKS = 2


def train() -> None:
    """Train this rank, whose process group is there, by `DistributedDataParallel`."""
    journal = Journal()
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(FEATURES, 2))
    dataset = Samples(COUNT, 0.01)
    sampler = DistributedSampler(dataset)
    # In a process that was spawned the default is spawn: each worker would import PyTorch anew in each epoch.
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=1, multiprocessing_context="fork")
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for features, codes in loader:
            journal.batch("train", codes)
            model(features).square().mean().backward()
        journal.epoch()
    journal.write()
    dist.destroy_process_group()


def spawned(rank: int, meeting: str) -> None:
    """Train one of the ranks that `mp.spawn` started; its environment does not say which it is."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    train()


if __name__ == "__main__":
    if variant(("env", "spawn")) == "env":
        dist.init_process_group("gloo")
        train()
    else:
        with tempfile.TemporaryDirectory() as directory:
            multiprocessing.spawn(spawned, (os.path.join(directory, "meeting"),), nprocs=RANKS)
