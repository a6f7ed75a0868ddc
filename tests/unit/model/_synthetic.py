"""Workloads of even loads and steps, with what workers and hand-overs usually cost."""

from __future__ import annotations

from feedwater_service.model.simulate import Workload

COSTS = {
    "send_cpu_seconds": 0.0003,
    "receive_cpu_seconds": 0.0005,
    "fork_cpu_seconds": 0.006,
    "boot_cpu_seconds": 0.005,
    "exit_cpu_seconds": 0.002,
}


def work(blocked: float, cpu: float, step_cpu: float, timed: float, **more: float) -> Workload:
    """Return a workload of one load and one step, in seconds; ``more`` are other costs."""
    return Workload(((blocked, cpu),), ((step_cpu, timed),), **{**COSTS, **more})
