"""How much CPU time does an answer cost?

Timed: CPU time of `draft` (made while an epoch runs), of `recommend` with that draft (what is left at the
boundary) and without one, over a trace of 2,000 batches; the median of 7 runs. Not timed: making the trace.
Bars: 50 ms with a draft, 300 ms without.

    python tests/benchmarks/recommendation/cost.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from statistics import median

from feedwater_service.model import (
    Budget,
    Epoch,
    Load,
    Loader,
    NoRecommendation,
    Pod,
    Policy,
    Settings,
    draft,
    recommend,
)
from feedwater_service.model.bucket import machine_of
from feedwater_service.model.simulate import Workload, run_epoch

BATCHES = 2000
RUNS = 7
COSTS = {
    "send_cpu_seconds": 0.0003,
    "receive_cpu_seconds": 0.0009,
    "fork_cpu_seconds": 0.014,
    "boot_cpu_seconds": 0.016,
}
_drawn = random.Random(1)
TAIL = tuple((_drawn.lognormvariate(-4, 1.2), 0.001) for _ in range(300))
CASES = {
    "blocked, 2 workers": (Workload(((0.05, 0.002),), ((0.0, 0.005),), **COSTS), Budget(8), 2),
    "quota, 4 workers": (Workload(((0.0, 0.01),), ((0.004, 0.0),), **COSTS), Budget(2, 1.0), 4),
    "tail, 8 workers": (Workload(TAIL, ((0.0, 0.002),), **COSTS), Budget(8), 8),
    "mixed, 16 workers": (Workload(((0.02, 0.01),), ((0.001, 0.001),), **COSTS), Budget(16, 6.0), 16),
}


def main() -> None:
    """Print a line for each case."""
    for name, (work, budget, workers) in CASES.items():
        pod, policy = _pod(work, budget, workers), Policy()
        made = draft(pod, "train", policy)
        assert not isinstance(made, NoRecommendation)
        costs = (
            _cpu_ms(lambda pod=pod, policy=policy: draft(pod, "train", policy)),  # type: ignore[misc]
            _cpu_ms(lambda pod=pod, policy=policy, made=made: recommend(pod, "train", policy, made)),  # type: ignore[misc]
            _cpu_ms(lambda pod=pod, policy=policy: recommend(pod, "train", policy)),  # type: ignore[misc]
        )
        text = "draft {:.0f} ms, answer with it {:.0f} ms, without {:.0f} ms".format(*costs)
        print(f"{name:20} {len(made.points)} points: {text}")


def _cpu_ms(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return 1e3 * median(taken)


def _pod(work: Workload, budget: Budget, workers: int) -> Pod:
    settings = Settings(workers, 2)
    run = run_epoch(work, settings, machine_of(budget), BATCHES, BATCHES)
    loads = []
    for i, made in enumerate(run.made):
        blocked, cpu = work.loads[i % len(work.loads)]
        loads.append(Load(i % workers, made - blocked - cpu, blocked + cpu, cpu, 0.0, 4096, 1))
    ends = [*run.asked[1:], run.end]
    epoch = Epoch(
        0,
        settings,
        0.0,
        0.0,
        [got - asked for asked, got in zip(run.asked, run.got, strict=True)],
        [end - got for got, end in zip(run.got, ends, strict=True)],
        loads=sorted(loads, key=lambda x: x.start),
        trainer_cpu_seconds=5.0,
        batches=BATCHES,
        budget=budget,
    )
    return Pod(budget, (Loader("train", 0, settings, settings, (epoch,)),))


if __name__ == "__main__":
    main()
