"""A training that comes to a halt half way: in a worker, or in the loop. For test_stall.py.

Takes one JSON object; prints a line when the loop has come to the halt.
"""

from __future__ import annotations

import json
import sys
import time

import torch.utils.data

import feedwater


class Samples:
    """Numbered samples, one of which never comes."""

    def __init__(self, count: int, never: int) -> None:
        self._count = count
        self._never = never

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        while index == self._never:
            time.sleep(60)
        time.sleep(0.002)
        return index


def main() -> None:
    asked = json.loads(sys.argv[1])
    halt = asked["halt"]
    never = halt * 4 if asked["where"] == "worker" else -1
    loader = torch.utils.data.DataLoader(Samples(800, never), batch_size=4, num_workers=asked["workers"])
    if not halt:
        print("halts", flush=True)
    for number, _ in enumerate(feedwater.watch(loader, name="train", mode="observe")):
        time.sleep(asked["step_seconds"])
        if number == halt - 1:
            print("halts", flush=True)
            if asked["where"] == "loop":
                sys.stdin.read()


if __name__ == "__main__":
    main()
