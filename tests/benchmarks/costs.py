"""Are the measured costs in the model those of this machine? Each is measured again beside what is claimed.

The model takes them from ``feedwater_service.model.numbers.costs`` where a trace does not show its own. Timed
are real ``DataLoader``s with real workers, by the clocks of the process that pays: starting and ending them
(fork; for spawn and forkserver the CPU time before the first batch), handing batches over in both processes,
shared memory by the byte. Counted are threads, files and memory of a worker. Pinning needs an accelerator and
is measured where there is one. Each row has the claimed figure in brackets. One far from it says that the
claim is another machine's; it misses no bar, for a trace with workers shows most of its own costs.

    python -m tests.benchmarks.costs --json tests/benchmarks/results/costs.json
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from feedwater_service.model.numbers import costs
from tests.support.benchmark import Options, Row, log, options, publish, quiet, row

RUNS = 7
BATCHES = 60
WARM_UP = 10
"""Batches of an iterator that are not timed."""
COLD_STEP = 0.005
"""Step that lets caches and CPUs cool down, seconds; longer than `costs.COLD_STEP_SECONDS`."""
LARGE = 16 * 2**20
MANY = 20
"""Tensors of a batch with many."""
WORKERS = (1, 4)
"""Counts between which a cost of each worker is told from one of any number."""


class Plain(Dataset[Any]):
    """Items that take no time to speak of, with stamps of when each was begun and made."""

    def __init__(self, items: int, tensors: int = 1, size: int = 256) -> None:
        self.items, self.tensors, self.size = items, tensors, size

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        begun, used = time.perf_counter(), time.process_time()
        rest = [torch.zeros(self.size // 4) for _ in range(self.tensors - 1)]
        stamps = torch.zeros(max(4, self.size // 8), dtype=torch.float64)
        stamps[0], stamps[1], stamps[2] = begun, time.perf_counter(), used
        return [stamps, *rest]


def loader(workers: int, dataset: Plain, **more: Any) -> DataLoader[Any]:
    """Return a loader whose batches are the items, one by one."""
    return DataLoader(dataset, batch_size=None, num_workers=workers, **more)


def iter_seconds(workers: int) -> float:
    """Return the seconds that ``iter()`` takes."""
    ours = loader(workers, Plain(workers * 2))
    begun = time.perf_counter()
    running = iter(ours)
    taken = time.perf_counter() - begun
    for _ in running:
        pass
    return taken


def boot_cpu_seconds(method: str) -> float:
    """Return the CPU time of a worker before its first item."""
    return float(next(iter(loader(1, Plain(2), multiprocessing_context=method)))[0][2])


def end_seconds(workers: int) -> float:
    """Return the seconds that an iterator's end takes."""
    running = iter(loader(workers, Plain(workers * 4)))
    for _ in range(workers * 4):
        next(running)
    begun = time.perf_counter()
    next(running, None)
    return time.perf_counter() - begun


def per_worker(measure: Callable[[int], float]) -> tuple[float, float]:
    """Return the cost of each worker, and that of any number, from two counts."""
    few, many = (measure(n) for n in WORKERS)
    each = (many - few) / (WORKERS[1] - WORKERS[0])
    return each, few - WORKERS[0] * each


def send_seconds() -> float:
    """Return what handing a batch over costs its worker: until the next load, and in the pickling thread."""
    running = iter(loader(1, Plain(BATCHES), prefetch_factor=BATCHES))
    first = next(running)
    time.sleep(0.3)
    worker = psutil.Process().children()[0].pid
    # A worker's threads in the order of their start: one loads, one pickles, one passes descriptors.
    pickling = sorted(int(tid) for tid in os.listdir(f"/proc/{worker}/task"))[1]
    pickled = _thread_cpu_seconds(worker, pickling) / BATCHES
    stamps = [(float(item[0][0]), float(item[0][1])) for item in (first, *running)]
    gap = median(begun - ended for (_, ended), (begun, _) in itertools.pairwise(stamps))
    return gap + pickled


def receptions(dataset: Plain, step: float) -> list[tuple[float, float]]:
    """Return the wall and CPU seconds of taking and dropping each of many batches that are there."""
    running = iter(loader(1, dataset, prefetch_factor=max(2, min(64, 2**28 // dataset.size))))
    found = []
    time.sleep(0.2)
    for _ in range(len(dataset)):
        if step:
            time.sleep(step)
        begun, used = time.perf_counter(), time.process_time()
        item = next(running)
        del item
        found.append((time.perf_counter() - begun, time.process_time() - used))
    return found[WARM_UP:]


def receive(tensors: int = 1, size: int = 256, step: float = COLD_STEP, clock: int = 0) -> float:
    """Return the usual seconds of taking a batch, by wall (0) or CPU (1) clock."""
    return median(x[clock] for x in receptions(Plain(BATCHES, tensors, size), step))


def receive_hot() -> float:
    """Return the seconds of taking one of many batches that wait, in a loop that does nothing else."""
    return median(x[0] for x in receptions(Plain(BATCHES), 0.0))


def receive_shares() -> tuple[float, float]:
    """Return the shares of a reception that are CPU time of the loop and of the worker's passing thread."""
    running = iter(loader(1, Plain(BATCHES, MANY), prefetch_factor=BATCHES))
    next(running)
    time.sleep(0.3)
    worker = psutil.Process().children()[0].pid
    # The last of a worker's threads to be started is the one that passes descriptors.
    passing = max(int(tid) for tid in os.listdir(f"/proc/{worker}/task"))
    begun, used, passed = time.perf_counter(), time.process_time(), _thread_cpu_seconds(worker, passing)
    for _ in range(BATCHES - 1):
        next(running)
    wall = time.perf_counter() - begun
    shares = time.process_time() - used, _thread_cpu_seconds(worker, passing) - passed
    del running
    return shares[0] / wall, shares[1] / wall


def _thread_cpu_seconds(pid: int, thread: int) -> float:
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) * 1e-9


def share_seconds_per_byte() -> float:
    """Return the CPU seconds of moving a byte into fresh shared memory."""
    tensor = torch.ones(LARGE // 4)
    used = time.thread_time()
    tensor.share_memory_()
    return (time.thread_time() - used) / LARGE


def unmap_seconds_per_byte() -> float:
    """Return the main process' CPU seconds of a byte more in a batch: mapped, dropped."""
    large, small = (receive(size=size, clock=1) for size in (LARGE, 256))
    return max(0.0, large - small) / LARGE


def pin_seconds_per_byte() -> float:
    """Return the seconds of copying a byte to pinned memory that exists already; needs an accelerator."""
    tensor, pinned = torch.ones(LARGE // 4), torch.ones(LARGE // 4).pin_memory()
    begun = time.perf_counter()
    pinned.copy_(tensor)
    return (time.perf_counter() - begun) / LARGE


def of_a_worker() -> tuple[float, float, float]:
    """Return a worker's threads, the files that the main process has open for it, and its own bytes."""
    files = [0.0, 0.0]
    threads = own = 0.0
    for i, workers in enumerate(WORKERS):
        before = len(os.listdir("/proc/self/fd"))
        running = iter(loader(workers, Plain(workers * 4)))
        next(running)
        files[i] = len(os.listdir("/proc/self/fd")) - before
        worker = psutil.Process().children()[0]
        threads, own = worker.num_threads(), worker.memory_full_info().uss
        del running
    return threads, (files[1] - files[0]) / (WORKERS[1] - WORKERS[0]), own


def measure_all(chosen: Options) -> list[Row]:
    """Return each cost as measured, the claimed one in its note."""
    runs = 1 if chosen.quick else RUNS
    rows = []
    for name, measure, claims in _cases(chosen):
        log(name)
        with quiet(chosen):
            measure()
            taken = [measure() for _ in range(runs)]
        for i, (what, unit, factor, claimed) in enumerate(claims):
            values = [t[i] * factor for t in taken]
            ratio = median(values) / (claimed * factor)
            told = f"{what} (claimed: {claimed * factor:.3g})"
            rows.append(row(told, unit, values, note=f"{ratio:.2f} times what is claimed"))
    return rows


Claim = tuple[str, str, float, float]
"""Name, unit, factor from base units to it, and what is claimed in base units."""


def _cases(chosen: Options) -> Sequence[tuple[str, Callable[[], Sequence[float]], Sequence[Claim]]]:
    methods = ("fork",) if chosen.quick else ("fork", "spawn", "forkserver")
    main, worker = costs.RECEIVE_MAIN_CPU_SHARE, costs.RECEIVE_WORKER_CPU_SHARE
    found: list[tuple[str, Callable[[], Sequence[float]], Sequence[Claim]]] = [
        (
            "starting workers",
            lambda: per_worker(iter_seconds)[:1],
            [("iter(), for each worker", "ms", 1e3, costs.FORK_CPU_SECONDS)],
        ),
        (
            "ending workers",
            lambda: per_worker(end_seconds),
            [
                ("end of an epoch, for each worker", "ms", 1e3, costs.EXIT_CPU_SECONDS),
                ("end of an epoch, whatever their number", "ms", 1e3, costs.TEARDOWN_SECONDS),
            ],
        ),
        (
            "handing over, in the worker",
            lambda: (send_seconds(),),
            [("hand over a batch, in a worker", "ms", 1e3, costs.SEND_SECONDS)],
        ),
        (
            "handing over, in the loop",
            lambda: (receive(), receive_hot(), (receive(MANY) - receive()) / (MANY - 1)),
            [
                ("take a batch, after a step of 5 ms", "ms", 1e3, costs.RECEIVE_SECONDS),
                ("take a batch, nothing else done", "ms", 1e3, costs.RECEIVE_SECONDS_HOT),
                ("take a batch, for each tensor more", "ms", 1e3, costs.EXTRA_TENSOR_SECONDS),
            ],
        ),
        (
            "who pays a reception",
            receive_shares,
            [
                ("share of a reception that is the loop's CPU time", "ratio", 1.0, main),
                ("share of a reception that is the worker's CPU time", "ratio", 1.0, worker),
            ],
        ),
        (
            "shared memory",
            lambda: (share_seconds_per_byte(), unmap_seconds_per_byte()),
            [
                ("fill shared memory, in a worker", "ns/byte", 1e9, costs.SHARE_SECONDS_PER_BYTE),
                ("map and drop it, in the loop", "ns/byte", 1e9, costs.UNMAP_SECONDS_PER_BYTE),
            ],
        ),
        (
            "what a worker takes",
            of_a_worker,
            [
                ("threads of a worker", "count", 1.0, costs.PIDS_PER_WORKER),
                ("files of the main process, for each worker", "count", 1.0, costs.FILES_PER_WORKER),
                ("own memory of a worker that does little", "MiB", 2.0**-20, costs.MIN_WORKER_BYTES),
            ],
        ),
        (
            "the interpreter",
            lambda: (sys.getswitchinterval(),),
            [("interval between switches of threads", "ms", 1e3, costs.GIL_SWITCH_SECONDS)],
        ),
    ]
    for method in methods:
        claim = (f"CPU before the first batch, {method}", "ms", 1e3, costs.BOOT_CPU_SECONDS[method])
        found.append((f"booting by {method}", lambda m=method: (boot_cpu_seconds(m),), [claim]))  # type: ignore[misc]
    if torch.cuda.is_available():
        claim = ("copy to pinned memory", "ns/byte", 1e9, costs.PIN_SECONDS_PER_BYTE)
        found.append(("pinning", lambda: (pin_seconds_per_byte(),), [claim]))
    return found


if __name__ == "__main__":
    chosen = options(__doc__)
    publish(__doc__, measure_all(chosen), chosen)
