"""A training process: real epochs on command, under the real client.

Each line on stdin is one epoch to run: ``{"workers": 4, "prefetch": 2}`` sets the loader first, ``{}`` leaves
it to Feedwater. Each line on stdout is what the epoch came to. Timed, by this process' own clock, are whole
epochs from ``iter()`` to the end of the loop: start-up, tear-down and what Feedwater does at the boundary
included.

    python -m tests.benchmarks.recommendation.workload_trainer WORKLOAD MODE WORKERS allow|ask
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

import feedwater
from tests.benchmarks.recommendation.datasets import Background, Timed, burn, constant
from tests.benchmarks.recommendation.drives import every_workload
from tests.benchmarks.recommendation.workloads import Workload

WARM_BATCHES = 12
"""Of an abandoned first epoch: imports, and the page tables that workers inherit."""
VALIDATION_BATCHES = 40


class Trainer:
    """One rank."""

    def __init__(self, work: Workload, mode: str, workers: int, allow: bool) -> None:
        self.work = work
        self.expected: list[float] = []
        self.rank = int(os.environ.get("RANK", "0"))
        self.loader = self._loader(work.make(work.batches * work.batch_size), workers)
        feedwater.watch(self.loader, name="train", mode=mode, allow_workers=allow)
        self.validation = self._validation(mode) if work.validation else None
        if work.background is not None:
            Background(*work.background).start()
        if work.ranks > 1:
            torch.distributed.init_process_group("gloo", rank=self.rank, world_size=work.ranks)

    def _loader(self, dataset: Any, workers: int) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.work.batch_size,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=self._init if self.work.init_cpu else None,
        )

    def _init(self, worker: int) -> None:
        burn(self.work.init_cpu)

    def _validation(self, mode: str) -> DataLoader[Any]:
        items = VALIDATION_BATCHES * self.work.batch_size
        loader = self._loader(Timed(items, constant(0.004), 0.0005), 2)
        return feedwater.watch(loader, name="validation", mode=mode)

    def set(self, workers: int, prefetch: int | None) -> None:
        """Put other settings into force, as a user's own hand does."""
        self.loader.num_workers = workers
        self.loader.prefetch_factor = prefetch if workers else None

    def warm(self) -> None:
        """Begin an epoch and leave it."""
        for number, _ in enumerate(self.loader):
            if number == WARM_BATCHES:
                break

    def epoch(self, number: int) -> dict[str, object]:
        """Run one epoch; return its settings as they were in force, its time and what it saw."""
        if hasattr(self.loader.dataset, "epoch"):
            self.loader.dataset.epoch = number
        firsts: list[float] = []
        begun, cpu = time.perf_counter(), time.process_time()
        for batch in self.loader:
            self.work.step()
            if self.work.ranks > 1:
                torch.distributed.all_reduce(torch.zeros(1))
            firsts.append(_mark(batch))
        seconds = time.perf_counter() - begun
        told: dict[str, object] = {
            "workers": self.loader.num_workers,
            "prefetch": self.loader.prefetch_factor,
            "batches": len(firsts),
            "seconds": seconds,
            "trainer_cpu_seconds": time.process_time() - cpu,
            "in_order": self._is_as_expected(firsts),
            "max_rss_bytes": _peak_bytes(),
        }
        if self.validation is not None:
            for _ in self.validation:
                time.sleep(0.002)
        told["with_validation_seconds"] = time.perf_counter() - begun
        return told

    def _is_as_expected(self, firsts: list[float]) -> bool:
        """Say whether each batch began with the right sample; a stream's first epoch sets its order."""
        if not self.expected:
            mark = getattr(self.loader.dataset, "mark", float)
            size = self.work.batch_size
            known = not isinstance(self.loader.dataset, IterableDataset)
            right = [float(mark(i * size)) for i in range(self.work.batches)]
            self.expected = right if known else firsts
        return firsts == self.expected


def _mark(batch: object) -> float:
    """Return the first number of a batch: where datasets write the index there, it shows a wrong sample."""
    while isinstance(batch, (list, tuple)):
        batch = batch[0]
    assert isinstance(batch, torch.Tensor)
    return float(batch.flatten()[0])


def _peak_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def _commands() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    """Serve commands until stdin ends."""
    name, mode, workers, allow = sys.argv[1:5]
    torch.set_num_threads(1)
    # "More workers than cores" is the point here.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.utils.data")
    trainer = Trainer(every_workload(name), mode, int(workers), allow == "allow")
    trainer.warm()
    _say({"ready": True})
    for number, command in enumerate(_commands()):
        if "workers" in command:
            trainer.set(command["workers"], command["prefetch"])
        try:
            _say(trainer.epoch(number))
        except (RuntimeError, OSError) as error:
            _say({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    # A loader's own iterator is gone by now; what is left of the relay ends with us.
    with contextlib.suppress(ValueError):
        sys.stdout.flush()


def _say(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
