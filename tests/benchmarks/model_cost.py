"""How much CPU time does a recommendation cost, from a small pod to one of 192 cores and 8 ranks?

Timed: CPU time of `analyse` (while an epoch runs), of `recommend` with that analysis (what is left at the
boundary), and of `recommend` without one, each over a trace of 2,000 batches. Not timed: making the trace,
which is a simulated one: it says what an answer costs at scale, never how good it is.

    python -m tests.benchmarks.model_cost --json tests/benchmarks/results/model_cost.json
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from feedwater_service.model import (
    Budget,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Policy,
    Recommendation,
    analyse,
    recommend,
)
from feedwater_service.model.simulator.cpu import machine_of
from feedwater_service.model.simulator.simulate import simulate_batches
from feedwater_service.model.simulator.workload import Workload
from tests.support.benchmark import Options, Row, log, options, publish, quiet, row

BATCHES = 2000
RUNS = 7
COSTS = {
    "send_cpu_seconds": 0.0003,
    "receive_cpu_seconds": 0.0005,
    "pass_cpu_seconds": 0.0003,
    "wake_seconds": 0.0001,
    "fork_cpu_seconds": 0.014,
    "boot_cpu_seconds": 0.016,
    "exit_cpu_seconds": 0.0045,
}
_drawn = random.Random(1)
TAIL = tuple((_drawn.lognormvariate(-4, 1.2), 0.001) for _ in range(300))


@dataclass(frozen=True, slots=True)
class Case:
    """One pod."""

    name: str
    loads: Sequence[tuple[float, float]]
    step: tuple[float, float]
    budget: Budget
    workers: int
    ranks: int = 1


CASES = (
    Case("blocked, 8 cores, 2 workers", ((0.05, 0.002),), (0.0, 0.005), Budget(8), 2),
    Case("quota of 1 core, 4 workers", ((0.0, 0.01),), (0.004, 0.0), Budget(2, 1.0), 4),
    Case("heavy tail, 8 cores, 8 workers", TAIL, (0.0, 0.002), Budget(8), 8),
    Case("mixed, quota of 6, 16 workers", ((0.02, 0.01),), (0.001, 0.001), Budget(16, 6.0), 16),
    Case("CPU bound, 4 cores", ((0.0, 0.03),), (0.0, 0.01), Budget(4), 2),
    Case("CPU bound, 32 cores, 2 ranks", ((0.01, 0.08),), (0.001, 0.009), Budget(32), 8, 2),
    Case("CPU bound, 96 cores, 4 ranks", ((0.01, 0.15),), (0.001, 0.009), Budget(96), 8, 4),
    Case("CPU bound, 192 cores, 8 ranks", ((0.01, 0.2),), (0.001, 0.009), Budget(192), 8, 8),
    Case("heavy tail, 192 cores, 8 ranks", TAIL, (0.001, 0.001), Budget(192), 8, 8),
)


def measure_all(chosen: Options) -> list[Row]:
    """Return three figures for each pod."""
    rows: list[Row] = []
    for case in CASES[:2] if chosen.quick else CASES:
        log(case.name)
        with quiet(chosen):
            rows += _case(case, 1 if chosen.quick else RUNS)
    return rows


def _case(case: Case, runs: int) -> list[Row]:
    pod, policy = _pod(case), Policy()
    made = analyse(pod, "train", policy)
    answer = recommend(pod, "train", policy)
    if isinstance(made, NoRecommendation) or not isinstance(answer, Recommendation):
        raise RuntimeError(f"{case.name}: no recommendation: {made}, {answer}")
    note = f"{case.workers} → {answer.settings.num_workers} workers, {len(made.points)} counts simulated"
    full = _cpu_ms(lambda: recommend(pod, "train", policy), runs)
    last = _cpu_ms(lambda: recommend(pod, "train", policy, made), runs)
    return [
        row(f"{case.name}: recommendation", "ms", full, bar="<= 300", note=note),
        row(f"{case.name}: of it at the boundary", "ms", last, bar="<= 50"),
    ]


def _cpu_ms(call: Callable[[], object], runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        begun = time.process_time()
        call()
        taken.append(1e3 * (time.process_time() - begun))
    return taken


def _pod(case: Case) -> Pod:
    """Return the pod after one epoch, all ranks alike."""
    settings = LoaderSettings(case.workers, 2)
    work = Workload(tuple(case.loads), (case.step,), **COSTS)
    machine = machine_of(case.budget)
    run = simulate_batches(work, settings, machine.share(1 / case.ranks), BATCHES, BATCHES)
    loads = []
    for i, loaded in enumerate(run.loaded[:BATCHES]):
        blocked, cpu = work.loads[i % len(work.loads)]
        loads.append(Load(i % case.workers, loaded - blocked - cpu, blocked + cpu, cpu, 0.0, 4096, 1))
    ends = [*run.asked[1:], run.end]
    epoch = Epoch(
        0,
        settings,
        0.0,
        0.0,
        [got - asked for asked, got in zip(run.asked, run.got, strict=True)],
        [end - got for got, end in zip(run.got, ends, strict=True)],
        loads=sorted(loads, key=lambda x: x.start),
        trainer_cpu_seconds=(case.step[0] + 0.0005) * BATCHES,
        batches=BATCHES,
        budget=case.budget,
    )
    loader = Loader("train", 0, settings, (epoch,))
    return Pod(case.budget, tuple(replace(loader, rank=rank) for rank in range(case.ranks)))


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
