"""A real training as a script: what the tests run beside a real sidecar.

Takes one JSON object, prints one: for each epoch the samples in order, the workers in use and the seconds.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch.utils.data

import feedwater


class Samples:
    """Numbered samples that take time: blocked (``sleep``) or computing (``cpu``)."""

    def __init__(self, count: int, kind: str, seconds: float) -> None:
        self._count = count
        self._kind = kind
        self._seconds = seconds

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self._kind == "sleep":
            time.sleep(self._seconds)
        else:
            until = time.thread_time() + self._seconds
            while time.thread_time() < until:
                pass
        return torch.full((16,), float(index)), index


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        Samples(asked["samples"], asked["kind"], asked["load_seconds"]),
        batch_size=asked["batch_size"],
        shuffle=True,
        num_workers=asked["workers"],
        persistent_workers=asked.get("persistent", False),
    )
    model = torch.nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    if asked["watched"]:
        feedwater.watch(loader, name="train", mode=asked.get("mode"))
    epochs = [epoch(loader, model, optimizer, asked["step_seconds"]) for _ in range(asked["epochs"])]
    print(json.dumps({"epochs": epochs, "workers_after": loader.num_workers}), flush=True)
    sys.stdin.read()  # alive until the test has looked at the sidecar


def epoch(
    loader: torch.utils.data.DataLoader, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: float
) -> dict[str, object]:
    """Train one epoch and return what it was made of."""
    started = time.perf_counter()
    samples, workers = [], -1
    for features, numbers in loader:
        workers = loader.num_workers
        optimizer.zero_grad()
        model(features).mean().backward()
        optimizer.step()
        time.sleep(step)
        samples.append(numbers.tolist())
    return {"samples": samples, "workers": workers, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    main()
