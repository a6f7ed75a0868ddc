"""Batches per second by three divisions: what the simulation has to beat."""

from __future__ import annotations

import math

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.simulator.cpu import Machine


def null_model(estimate: Estimate, workers: int, machine: Machine) -> float:
    """Return batches per second by three divisions: what any better model has to beat.

    Example: a step of 4 ms, loads of 10 ms CPU by 2 workers on 1 core: max(4, 10 / 2, 14 / 1) ms is 71.4/s.
    """
    step = estimate.step_cpu_seconds + estimate.step_timed_seconds
    load = estimate.load_seconds
    cpu = estimate.load_cpu_seconds + estimate.step_cpu_seconds
    slowest = max(step, load / workers if workers else load + step, cpu / machine.cores)
    return 1.0 / slowest if slowest > 0 else math.inf
