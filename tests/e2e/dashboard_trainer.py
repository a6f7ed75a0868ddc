"""A training without end, with or without an accelerator: what the dashboards' queries are tried on.

Takes one JSON object, trains until it is ended, and says nothing. The accelerator has a timeline of its own.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch.utils.data

import feedwater
from feedwater.loop.measure import device as loop_device
from tests.fixtures.fake_device import FakeDevice


class Samples:
    """Samples that take time to load, a twentieth of it computing."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        until = time.thread_time() + 0.05 * self._seconds
        while time.thread_time() < until:
            pass
        time.sleep(0.95 * self._seconds)
        return torch.full((4096,), float(index))


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    device = FakeDevice()
    if asked["has_device"]:
        loop_device.find_timeline_with(lambda: device)
    loader = torch.utils.data.DataLoader(
        Samples(asked["batches"], asked["load_seconds"]), batch_size=None, num_workers=asked["workers"]
    )
    feedwater.watch(loader, name="train", mode=asked["mode"])
    while True:
        for _ in loader:
            device.step(asked["step_seconds"])
            device.synchronize()


if __name__ == "__main__":
    main()
