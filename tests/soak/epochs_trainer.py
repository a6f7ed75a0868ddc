"""Trains for many epochs, watched, and prints what it saw as JSON. Run by test_epochs.py, with any Python."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading

import torch
from torch.utils.data import DataLoader, Dataset

import feedwater

ITEMS = 32
BATCH = 4


class Plain(Dataset):  # type: ignore[type-arg]
    """Items made of their index."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((16,), index)


class OverGrpc(Plain):
    """Items fetched over gRPC, on a channel that each worker opens for itself."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._call = None

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._call is None:
            import grpc

            self._call = grpc.insecure_channel(self._address).unary_unary("/echo/Echo")
        return torch.full((16,), int(self._call(str(index).encode(), timeout=30)))


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--start-method", required=True)
    parser.add_argument("--persistent", action="store_true")
    parser.add_argument("--echo", default="")
    parser.add_argument("--mode", default="observe")
    given = parser.parse_args()
    loader = DataLoader(
        OverGrpc(given.echo) if given.echo else Plain(),
        batch_size=BATCH,
        num_workers=2,
        persistent_workers=given.persistent,
        multiprocessing_context=given.start_method,
    )
    sums = []
    for _ in range(given.epochs):
        sums.append(
            sum(int(batch[:, 0].sum()) for batch in feedwater.watch(loader, name="train", mode=given.mode))
        )
    told = {
        "sums": sums,
        "threads": sorted({thread.name for thread in threading.enumerate()}),
        "has_grpc": "grpc" in sys.modules,
        "zombies": _zombies(),
    }
    print(json.dumps(told))


def _zombies() -> int:
    children = f"/proc/self/task/{os.getpid()}/children"
    with open(children) as file:
        pids = file.read().split()
    count = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            count += file.read().rpartition(")")[2].split()[0] == "Z"
    return count


if __name__ == "__main__":
    main()
