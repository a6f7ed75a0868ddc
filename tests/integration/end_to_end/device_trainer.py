"""A training on an accelerator with a timeline of its own: what a test runs beside a real sidecar.

Takes one JSON object, prints one: the shares of time that host and device really waited, by its own clock.
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
from tests.integration.end_to_end.samples import Samples


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    device = FakeDevice()
    if asked["has_events"]:
        loop_device.find_timeline_with(lambda: device)
    loader = torch.utils.data.DataLoader(
        Samples(asked["batches"], asked["load_seconds"]), batch_size=None, num_workers=1
    )
    feedwater.watch(loader, name="train", mode="observe")
    told = epoch(loader, device, asked)
    # One more: what the device had not come past at the end of the first is read when this one begins.
    epoch(loader, device, asked)
    print(json.dumps(told), flush=True)
    sys.stdin.read()  # alive until the test has looked at the sidecar


def epoch(
    loader: torch.utils.data.DataLoader, device: FakeDevice, asked: dict[str, float]
) -> dict[str, float]:
    """Train one epoch and return who waited for what share of it."""
    wait = idle = 0.0
    began = ask = 0.0
    for number, _ in enumerate(loader):
        got = time.perf_counter()
        if number == 0:
            began = got
        else:
            wait += got - ask
            idle += max(0.0, got - max(ask, device.free_at))
        device.step(asked["step_seconds"])
        if asked["syncs"]:
            device.synchronize()
        time.sleep(asked["host_seconds"])
        ask = time.perf_counter()
    host_seconds = ask - began
    device.synchronize()
    return {
        "host_wait": wait / host_seconds,
        "device_starvation": idle / (time.perf_counter() - began),
        "batches": float(number + 1),
    }


if __name__ == "__main__":
    main()
