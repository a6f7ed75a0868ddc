"""Measure the oracle: every setting, interleaved, with what the sidecar came to know of each epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.recommendation.harness import Training, training, wait_for_reports
from tests.benchmarks.recommendation.limits import Foreign, wait_for_quiet
from tests.benchmarks.recommendation.neighbours import Neighbours, neighbours
from tests.benchmarks.recommendation.traces import Recorded, Trace, read_trace, write_trace
from tests.benchmarks.recommendation.workloads import Workload
from tests.support.benchmark import environment, log

QUIET_CORES = 0.3
"""Cores that others may use during an epoch; one that they disturbed more is repeated, once."""
SLOW = 1.6
"""Times the quickest epoch: longer ones are run once only: they average more, and are far from the best."""
Setting = tuple[int, int]


def measure(
    work: Workload, path: Path, rounds: int, *, limit: float | None, patient: bool, beside: int = 0
) -> None:
    """Measure one workload, and store its trace.

    Args:
        work: What to measure.
        path: Where to store it.
        rounds: Times that each setting is measured.
        limit: Another CPU limit than the workload's own.
        patient: Wait for the machine to be quiet, and repeat what others disturbed.
        beside: Busy neighbours.
    """
    with training(work, "observe", 1, cores=limit) as one, neighbours(beside) as busy:
        rows = list(_rows(one, busy, rounds, patient))
        one.end()
        wait_for_reports(one)
        write_trace(path, work.name, rows, one.journals(), environment())
    log(summary(read_trace(path)))


def settings_of(work: Workload) -> list[Setting]:
    """Return the (num_workers, prefetch_factor) that are measured."""
    return [(n, 2) for n in work.counts] + [(n, p) for n, more in work.prefetch.items() for p in more]


def _rows(one: Training, busy: Neighbours | None, rounds: int, patient: bool) -> Iterator[dict[str, Any]]:
    times: dict[Setting, list[float]] = {}
    order = settings_of(one.work)
    shuffled = random.Random(1)
    for number in range(rounds):
        quickest = min((median(v) for v in times.values()), default=0.0)
        for setting in order:
            if number and median(times[setting]) > SLOW * quickest:
                continue
            for _ in range(2 if patient else 1):
                row = _row(one, busy, setting, patient)
                times.setdefault(setting, []).append(row["seconds"])
                yield row
                if row["foreign_cores"] <= QUIET_CORES or row["seconds"] > SLOW * quickest > 0:
                    break
        # No setting always follows the same one.
        shuffled.shuffle(order)


def _row(one: Training, busy: Neighbours | None, setting: Setting, patient: bool) -> dict[str, Any]:
    groups = (one.group,) if busy is None else (one.group, busy)
    if patient:
        wait_for_quiet(groups, QUIET_CORES, patience_seconds=0.6)
    foreign = Foreign(*groups)
    row = one.epoch({"workers": setting[0], "prefetch": setting[1]})
    if "error" in row:
        raise RuntimeError(f"{one.work.name} at {setting}: {row['error']}")
    return row | {"foreign_cores": round(foreign.cores(), 3)}


def summary(trace: Trace) -> str:
    """Return one line: the rate at each setting."""
    rates = {s: median(x.rate for x in at) for s, at in by_setting(trace).items()}
    text = " ".join(f"{n}{'' if p == 2 else f'/{p}'}:{rate:.0f}" for (n, p), rate in rates.items())
    seconds = sum(r.seconds for r in trace.recorded)
    missing = sum(not r.known for r in trace.recorded)
    cores = trace.budget.cores
    return f"{trace.workload} ({cores:g} cores): {text}; {seconds:.0f} s, {missing} epochs not reported"


def by_setting(trace: Trace) -> dict[Setting, list[Recorded]]:
    """Return the epochs of each setting, by rising count."""
    found: dict[Setting, list[Recorded]] = {}
    for recorded in sorted(trace.recorded, key=lambda r: (r.workers, r.prefetch)):
        found.setdefault((recorded.workers, recorded.prefetch), []).append(recorded)
    return found
