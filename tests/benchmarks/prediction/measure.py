"""Measure one case: epochs at each worker count, interleaved, written as JSON. Run by ``run.py``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import warnings
from pathlib import Path

import recorder
import torch
from workloads import CASES, Case

from feedwater_service.model import Budget

QUIET_CORES = 0.15
"""Cores that others may use during an epoch; one that they disturbed more is repeated."""


def measured(case: Case, workers: int, budget: Budget, number: int, tries: int) -> dict[str, object]:
    """Return the quietest of up to ``tries`` epochs as JSON, with the cores that others used meanwhile."""
    best: dict[str, object] = {}
    least = float("inf")
    for _ in range(tries):
        recorder.wait_for_quiet(QUIET_CORES, patience_seconds=2.0 * (tries - 1))
        foreign = recorder.Foreign()
        epoch = recorder.record(case, workers, budget, number)
        cores = foreign.cores()
        if cores < least:
            least, best = cores, {**dataclasses.asdict(epoch), "foreign_cores": cores}
        if cores <= QUIET_CORES:
            break
    return best


def main() -> None:
    """Measure the case named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--shrink", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    case = next(c for c in CASES if c.name == options.case)
    case = dataclasses.replace(case, batches=max(40, int(case.batches * options.shrink)))
    budget = Budget(len(os.sched_getaffinity(0)), case.quota_cores)
    torch.set_num_threads(1)
    # "More workers than cores" is the point here.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.utils.data")
    recorder.install()
    group = recorder.enter_group(case.quota_cores)
    try:
        # One short epoch warms the imports and the page tables that workers inherit.
        recorder.record(dataclasses.replace(case, batches=20), 1, budget, 0)
        rows = [
            measured(case, workers, budget, number, options.tries)
            for number in range(options.rounds)
            for workers in case.counts
        ]
    finally:
        recorder.leave_group(group)
    options.out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
