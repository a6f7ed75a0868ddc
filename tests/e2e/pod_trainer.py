"""A training for a pod, without a word of Feedwater: JSON in, a line of JSON for each epoch out."""

from __future__ import annotations

import json
import os
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Batches that take time: blocked (``sleep``) or computing (``cpu``)."""

    def __init__(self, batches: int, kind: str, seconds: float, floats: int) -> None:
        self._batches, self._kind, self._seconds, self._floats = batches, kind, seconds, floats

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._kind == "sleep":
            time.sleep(self._seconds)
        else:
            until = time.thread_time() + self._seconds
            while time.thread_time() < until:
                pass
        return torch.full((self._floats,), float(index))


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    samples = Samples(asked["batches"], asked["kind"], asked["load_seconds"], asked["floats"])
    loader = DataLoader(samples, batch_size=1, num_workers=asked["workers"])
    for epoch in range(asked["epochs"]):
        began, total = time.perf_counter(), 0
        for batch in loader:
            total += int(batch[0, 0])
            time.sleep(asked["step_seconds"])
        seconds = time.perf_counter() - began
        said = {"epoch": epoch, "workers": loader.num_workers, "seconds": seconds, "total": total}
        print(json.dumps(said | {"uid": os.getuid()}), flush=True)


if __name__ == "__main__":
    main()
