"""One rank of a training, as a script: what the tests run twice beside a real sidecar.

Takes one JSON object, prints one when its epochs are through: for each epoch the workers in use, and the mean
seconds of waits and steps as the loop itself saw them.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed
import torch.utils.data
from torch.nn.parallel import DistributedDataParallel

import feedwater
from tests.integration.end_to_end.samples import Samples


def main() -> None:
    asked = json.loads(sys.argv[1])
    rank = int(os.environ["RANK"])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{asked['meeting']}", rank=rank, world_size=int(os.environ["WORLD_SIZE"])
    )
    model = DistributedDataParallel(torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    loader = watched("train", asked["load_seconds"][rank], asked)
    valid = watched("valid", asked["load_seconds"][rank], asked) if asked["validates"] else None
    epochs = []
    for _ in range(asked["epochs"]):
        epochs.append(epoch(loader, model, optimizer, asked["step_seconds"]))
        if valid is not None:
            for features in valid:
                with torch.no_grad():
                    model.module(features)
    print(json.dumps(epochs), flush=True)
    sys.stdin.read()  # alive until the test has looked at the sidecar
    torch.distributed.destroy_process_group()


def watched(name: str, load_seconds: float, asked: dict[str, object]) -> torch.utils.data.DataLoader:
    """Return a loader of batches of one sample each, watched."""
    samples = Samples(int(str(asked["batches"])), load_seconds)
    loader = torch.utils.data.DataLoader(samples, batch_size=1, num_workers=int(str(asked["workers"])))
    return feedwater.watch(loader, name=name, mode=str(asked["mode"]))


def epoch(
    loader: torch.utils.data.DataLoader, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: float
) -> dict[str, float]:
    """Train one epoch and return what it was like."""
    waits, steps = [], []
    asked = time.perf_counter()
    for features in loader:
        got = time.perf_counter()
        optimizer.zero_grad()
        time.sleep(step)
        model(features).mean().backward()  # the ranks wait for each other here
        optimizer.step()
        waits.append(got - asked)
        asked = time.perf_counter()
        steps.append(asked - got)
    rest = len(waits) - 1
    return {"workers": loader.num_workers, "wait": sum(waits[1:]) / rest, "step": sum(steps[1:]) / rest}


if __name__ == "__main__":
    main()
