"""Do 250m and 128 MiB carry the sidecar through half an hour of real training?

Four ranks, each a real training without an edit (two workers, 50 batches/s, an epoch each 20 s, so that the
model is asked 12 times a minute), and a scrape each 15 s. Measured: CPU time of the sidecar, throttled
periods of its control group, its resident memory every five seconds, and the most memory that its control
group ever held, page cache included. Not measured: the trainers and their relays. Warm-up: none; the start is
part of what the requests must carry.

    python -m tests.benchmarks.sidecar_resources --json tests/benchmarks/results/sidecar_resources.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import ROOT
from tests.support.benchmark import Options, Row, log, options, publish, row
from tests.support.processes import CGROUPS, Sidecar, cgroup, enter, limit_cores, remove, scratch

CORES = 0.25
MEMORY_BYTES = 128 << 20
RANKS = 4
MINUTES = 30.0
SAMPLE_SECONDS = 5
SCRAPE_SECONDS = 15
TRAINER = ROOT / "tests/e2e/pod_trainer.py"
WORK = {
    "kind": "sleep",
    "load_seconds": 0.02,
    "step_seconds": 0.01,
    "floats": 1000,
    "workers": 2,
    "batches": 1000,
    "epochs": 10**6,
}


@dataclass(slots=True)
class Usage:
    """What the sidecar took."""

    seconds: float
    cpu_seconds: float = 0.0
    throttled_ratio: float = 0.0
    most_bytes: int = 0
    resident_mib: list[float] = field(default_factory=list)


def measure_all(chosen: Options, minutes: float) -> list[Row]:
    """Measure one run."""
    with cgroup("cpu") as cpu, cgroup("memory") as memory:
        limit_cores(cpu, CORES)
        (memory / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
        with _limited_sidecar(cpu, memory) as one:
            usage = _run(one, cpu, memory, 60 * (0.25 if chosen.quick else minutes))
    note = f"{RANKS} ranks, {usage.seconds / 60:.3g} minutes"
    growth = usage.resident_mib[-1] - usage.resident_mib[len(usage.resident_mib) // 2]
    return [
        row("CPU", "% of a core", [100 * usage.cpu_seconds / usage.seconds], bar="<= 25", note=note),
        row("periods throttled at 250m", "%", [100 * usage.throttled_ratio]),
        row("resident memory, most", "MiB", [max(usage.resident_mib)], bar="<= 128", note=note),
        row("resident memory, growth in the second half", "MiB", [growth]),
        row("memory of the control group, most", "MiB", [usage.most_bytes / 2**20], bar="<= 128"),
    ]


@contextlib.contextmanager
def _limited_sidecar(cpu: Path, memory: Path) -> Iterator[Sidecar]:
    """Run a sidecar that is born in both control groups: memory stays with the group that it was taken in."""
    directory = scratch()
    one = Sidecar(directory, group=cpu)
    (own,) = re.findall(r"^\d+:memory:/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    try:
        enter(memory)
        try:
            one.start()
        finally:
            enter(CGROUPS / "memory" / own)
        yield one
    finally:
        one.stop()
        remove(directory)


def _run(one: Sidecar, cpu: Path, memory: Path, seconds: float) -> Usage:
    process, began = psutil.Process(one.pid), time.monotonic()
    usage = Usage(seconds)
    with _trainers(one.address):
        while (passed := time.monotonic() - began) < seconds:
            usage.resident_mib.append(process.memory_info().rss / 2**20)
            if len(usage.resident_mib) % (SCRAPE_SECONDS // SAMPLE_SECONDS) == 0:
                one.metrics()
            if len(usage.resident_mib) % 60 == 0:
                log(f"{passed / 60:.0f} minutes: {usage.resident_mib[-1]:.1f} MiB")
            time.sleep(SAMPLE_SECONDS)
        usage.seconds = time.monotonic() - began
        times = process.cpu_times()
        usage.cpu_seconds = times.user + times.system
        stat = dict(line.split() for line in (cpu / "cpu.stat").read_text().splitlines())
        usage.throttled_ratio = int(stat["nr_throttled"]) / max(1, int(stat["nr_periods"]))
        usage.most_bytes = int((memory / "memory.max_usage_in_bytes").read_text())
    return usage


@contextlib.contextmanager
def _trainers(address: str) -> Iterator[None]:
    """Run the ranks for the length of the body."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "client/feedwater/inject/site"),
        "FEEDWATER_ADDRESS": address,
        "FEEDWATER_MODE": "advise",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
    }
    with contextlib.ExitStack() as stack:
        for rank in range(RANKS):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(TRAINER), json.dumps(WORK)],
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.terminate)
        yield


def _minutes() -> tuple[float, Sequence[str]]:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parsed, others = parser.parse_known_args()
    return parsed.minutes, others


if __name__ == "__main__":
    asked_minutes, other_arguments = _minutes()
    chosen_options = options(__doc__, other_arguments)
    publish(__doc__, measure_all(chosen_options, asked_minutes), chosen_options)
