"""Reads the container and its processes, each at its own interval and within a bounded share of a core."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from feedwater.relay import machine
from feedwater.relay.cgroup import CgroupReader
from feedwater.relay.device import DeviceReader
from feedwater.relay.downward import pod_limits
from feedwater.relay.measurements import ContainerUsage, Limits, ProcessUsage
from feedwater.relay.procfs import open_files

if TYPE_CHECKING:
    from feedwater.relay.processes import ProcessReader

try:
    from feedwater.relay import processes
except ImportError:
    # Where a volume is mounted noexec the image's own Python runs the relay: it may have gRPC and no psutil.
    processes = None  # type: ignore[assignment]

LIMITS_SECONDS = 1.0
"""A pod can be resized in place, which the next report must state; a reading takes 0.2 ms."""
CFS_PERIOD_SECONDS = 0.1
"""The kubelet's, unless its configuration says otherwise."""
CONTAINER_SECONDS = 0.25
"""A younger reading is used again: many short epochs ask for it often."""
DEVICE_SECONDS = 0.9
"""NVML's figure covers the last second at most. Polls come every second, some a little early."""
PROCESSES_SECONDS = 2.0
PROCESSES_SHARE = 0.0005
"""Of a core at most for reading processes, 40 µs each: 64 workers are read every five seconds."""
PSS_FIRST_SECONDS = 2.0
"""After the begin of an epoch: by then workers have started and loaded something."""
PSS_SECONDS = 30.0
PSS_SHARE = 0.001
"""Of a core at most for reading proportional memory, which takes 4 to 7 ms per GB."""


class Observer:
    """Reads what the rings do not hold: limits, container, processes and device of one trainer."""

    def __init__(
        self,
        pid: int,
        clock: Callable[[], float] = time.monotonic,
        device: DeviceReader | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Observe the process ``pid`` and its container, whose environment is ``environ``."""
        self._pid = pid
        self._clock = clock
        self._environ = environ
        # A trainer that has ended already was in the same container as this process.
        self._cgroup = CgroupReader(pid if os.path.exists(f"/proc/{pid}") else os.getpid())
        self._processes = processes.ProcessReader() if processes is not None else None
        self._limits: Limits | None = None
        self._limits_at = -LIMITS_SECONDS
        self._container: ContainerUsage | None = None
        self._processes_at = -PROCESSES_SECONDS
        self._trainer_at = -PROCESSES_SECONDS
        self._processes_due = 0.0
        self._pss_due = math.inf
        self._pss_affordable = 0.0
        self._begun_at = self._clock()
        self._device = device or DeviceReader()
        self._device_at = -DEVICE_SECONDS
        self._utilisation: list[float] = []
        """Readings since the last report."""
        self._last_utilisation: float | None = None

    def limits(self) -> Limits:
        """Return what the container may use, at most `LIMITS_SECONDS` old."""
        now = self._clock()
        if self._limits is None or now - self._limits_at >= LIMITS_SECONDS:
            self._limits, self._limits_at = self._read_limits(), now
        return self._limits

    def container(self) -> ContainerUsage:
        """Return what the container uses, at most `CONTAINER_SECONDS` old."""
        now = self._clock()
        if self._container is None or now - self._container.stamp_seconds >= CONTAINER_SECONDS:
            self._container = self._read_container(now)
        return self._container

    def read_device(self, uuid: str) -> None:
        """Read the utilisation of the trainer's device, at most once in `DEVICE_SECONDS`."""
        now = self._clock()
        if now - self._device_at < DEVICE_SECONDS:
            return
        self._device_at = now
        read = self._device.utilisation(uuid)
        if read is None:
            self._last_utilisation = None
        else:
            self._utilisation.append(read)

    def _take_utilisation(self) -> float | None:
        if self._utilisation:
            self._last_utilisation = sum(self._utilisation) / len(self._utilisation)
            self._utilisation.clear()
        return self._last_utilisation

    def begin_epoch(self) -> None:
        """Make readings of processes and their memory due soon: the workers or their memory are new."""
        self._begun_at = self._clock()
        self._processes_due = min(self._processes_due, self._processes_at + CONTAINER_SECONDS)
        self._pss_due = max(self._pss_affordable, min(self._pss_due, self._begun_at + PSS_FIRST_SECONDS))

    def processes(self, worker_pids: Sequence[int], thread_id: int = 0) -> list[ProcessUsage]:
        """Return readings of trainer and workers if these are due, else of the trainer alone, or none.

        Args:
            worker_pids: The workers' processes, by number.
            thread_id: The trainer's thread that iterates; 0 is its main thread.
        """
        now, thread_id = self._clock(), thread_id or self._pid
        if self._processes is None:
            return []
        if now < self._processes_due:
            return self._trainer_alone(self._processes, now, thread_id)
        with_pss = now >= self._pss_due
        processes = [
            (self._pid, None, thread_id),
            *((pid, worker, 0) for worker, pid in enumerate(worker_pids)),
        ]
        before = time.process_time()
        usages = [
            self._processes.usage(pid, worker, now, with_pss, thread) for pid, worker, thread in processes
        ]
        self._pace(now, time.process_time() - before, with_pss)
        return [usage for usage in usages if usage is not None]

    def _trainer_alone(self, reader: ProcessReader, now: float, thread_id: int) -> list[ProcessUsage]:
        # The CPU time of a step is the difference of two readings in its epoch, however short that is.
        if now - self._trainer_at < CONTAINER_SECONDS:
            return []
        self._trainer_at = now
        usage = reader.usage(self._pid, None, now, False, thread_id)
        return [] if usage is None else [usage]

    def _pace(self, now: float, cost_seconds: float, with_pss: bool) -> None:
        self._processes_at = self._trainer_at = now
        wait = PROCESSES_SECONDS if with_pss else max(PROCESSES_SECONDS, cost_seconds / PROCESSES_SHARE)
        self._processes_due = now + wait
        if with_pss:
            self._pss_affordable = now + cost_seconds / PSS_SHARE
            # At 2, 4, 8 … seconds of an epoch: the last reading lies in its second half, and shows growth.
            again = min(PSS_SECONDS, max(PSS_FIRST_SECONDS, now - self._begun_at))
            self._pss_due = max(now + again, self._pss_affordable)

    def _read_limits(self) -> Limits:
        cgroup = self._cgroup.limits()
        total = machine.memory()
        machine_bytes = total.total_bytes if total else None
        shm = machine.shared_memory()
        pod = pod_limits(self._environ, os.cpu_count() or 1, machine_bytes)
        quota, period = cgroup.cpu_quota_cores, cgroup.cpu_period_seconds
        if quota is None and pod.cpu_cores is not None:
            quota, period = pod.cpu_cores, CFS_PERIOD_SECONDS
        # The container's own limit is current and never above the pod's; a variable may be out of date.
        own_or_pod = cgroup.memory_bytes if cgroup.memory_bytes is not None else pod.memory_bytes
        memory = [limit for limit in (own_or_pod, machine_bytes) if limit is not None]
        return Limits(
            cpu_quota_cores=quota,
            cpu_period_seconds=period,
            cpus=_allowed_cpus(self._pid, cgroup.cpus),
            memory_bytes=min(memory, default=None),
            shm_bytes=shm.size_bytes if shm else None,
            pids=cgroup.pids,
            open_files=open_files(self._pid),
        )

    def _read_container(self, now: float) -> ContainerUsage:
        usage = self._cgroup.usage()
        shm = machine.shared_memory()
        return ContainerUsage(
            stamp_seconds=now,
            cpu_seconds=usage.cpu_seconds,
            periods=usage.periods,
            throttled_periods=usage.throttled_periods,
            throttled_seconds=usage.throttled_seconds,
            memory_bytes=self._needed_memory(usage.memory_bytes),
            shm_bytes=shm.used_bytes if shm else None,
            oom_kills=usage.oom_kills,
            pids=usage.pids,
            cpu_pressure_seconds=usage.cpu_pressure_seconds,
            io_pressure_seconds=usage.io_pressure_seconds,
            memory_pressure_seconds=usage.memory_pressure_seconds,
            steal_seconds=machine.steal_seconds(),
            device_utilisation=self._take_utilisation(),
        )

    def _needed_memory(self, in_cgroup: int | None) -> int | None:
        # Where the machine's memory is the limit, the memory that others use counts too.
        total = machine.memory()
        limit = self.limits().memory_bytes
        if total is not None and limit == total.total_bytes:
            return total.needed_bytes
        return in_cgroup


def _allowed_cpus(pid: int, in_cpuset: int | None) -> int | None:
    try:
        allowed = len(os.sched_getaffinity(pid))
    except OSError:
        return in_cpuset
    return min(allowed, in_cpuset) if in_cpuset else allowed
