"""Workloads of even loads and steps, with the usual costs of workers, and what is read beside them."""

from __future__ import annotations

from dataclasses import replace

from feedwater_service.model import ContainerUsage, Epoch, WorkerMemory
from feedwater_service.model.simulator.simulate import Workload

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


def threaded(epoch: Epoch, width: float) -> Epoch:
    """Return the epoch with workers that used ``width`` times the CPU time of their loading threads."""
    workers = epoch.settings.num_workers
    seconds = width * sum(load.cpu_seconds for load in epoch.loads) / workers
    readings = [(999.0, 0.0), (2000.0, seconds)]
    memory = [WorkerMemory(w, stamp, cpu_seconds=cpu) for w in range(workers) for stamp, cpu in readings]
    return replace(epoch, memory=memory)


def weighing(epoch: Epoch, worker_bytes: int, container_bytes: int) -> Epoch:
    """Return the epoch with the memory of each worker, and of all that runs in the container."""
    memory = [WorkerMemory(w, 1001.0, pss_bytes=worker_bytes) for w in range(epoch.settings.num_workers)]
    return replace(epoch, memory=memory, containers=[ContainerUsage(1001.0, memory_bytes=container_bytes)])
