"""Beside busy neighbours: a node whose CPUs others load, as is the rule on machines with accelerators.

Neighbours are processes that compute without end, in a control group of their own. Shares are those of
Kubernetes' CPU requests, of which the kernel makes ``cpu.shares``: 2 cores for the training, 1 for each
neighbour. On two CPUs, 2 of them leave one core to a training that wants more, and 4 leave two thirds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.recommendation.drives import every_workload
from tests.benchmarks.recommendation.limits import SHARES
from tests.benchmarks.recommendation.workloads import Workload
from tests.support.processes import CGROUPS, cpu_seconds, enter, remove_group

NEIGHBOURS = (0, 2, 4)
"""Cores' worth of CPU that are kept busy."""
REQUESTED_CORES = 2
"""Of the training; each neighbour requests one."""
COUNTS = (0, 1, 2, 3, 4, 6, 8, 12)
"""Few, for each is measured under each load."""
NAMES = (
    "io",
    "io-cpu-step",
    "lognormal-1.2",
    "cpu-2.0",
    "heavy-1.0",
    "mixed-2.0",
    "start-up",
    "init-cpu",
)
"""Sleeping loads, a step that computes, a heavy tail, CPU-bound, a quota with a step, both, starts that sleep
and starts that compute: a few of each kind of the suite, for a measurement of twenty minutes."""


def beside(name: str) -> Workload:
    """Return a workload as it is measured here."""
    return dataclasses.replace(
        every_workload(name), counts=COUNTS, prefetch={}, verdicts={}, other_quota=None
    )


class Neighbours:
    """Processes that compute without end."""

    def __init__(self, count: int) -> None:
        name = f"feedwater-{uuid.uuid4().hex[:8]}"
        self._paths = [CGROUPS / "cpu" / name, CGROUPS / "cpuacct" / name]
        for path in self._paths:
            path.mkdir(exist_ok=True)
        (self._paths[0] / "cpu.shares").write_text(str(SHARES * count // REQUESTED_CORES))
        self._processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=self._enter)

    def _enter(self) -> None:
        for path in self._paths:
            enter(path)

    def cpu_seconds(self) -> float:
        """Return the CPU time that they used: it is no noise."""
        return cpu_seconds(self._paths[1])

    def end(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()
        for path in self._paths:
            if path.exists():
                remove_group(path)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[Neighbours | None]:
    """Have so many for the length of the body; None are none."""
    if count == 0:
        yield None
        return
    found = Neighbours(count)
    try:
        yield found
    finally:
        found.end()


def trace_of(folder: Path, name: str, count: int) -> Path:
    """Return where the trace of a workload beside so many neighbours lies."""
    return folder / f"{name}+{count}.json.gz"
