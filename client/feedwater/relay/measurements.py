"""The relay's measurements as plain values in seconds, bytes and cores. None is unknown, never zero."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the container. None is unknown or without limit."""

    cpu_quota_cores: float | None = None
    """The smallest CFS quota of all visible levels."""
    cpu_period_seconds: float | None = None
    """The period of that quota."""
    cpus: int | None = None
    """CPUs that the trainer may run on (affinity and cpuset)."""
    memory_bytes: int | None = None
    """The smallest limit of all visible levels, or the machine's memory where that is less."""
    shm_bytes: int | None = None
    pids: int | None = None
    open_files: int | None = None
    """Of one process."""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Usage of the container at one moment; counters since it started."""

    stamp_seconds: float
    cpu_seconds: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    memory_bytes: int | None = None
    """Anonymous, unreclaimable and shared memory; page cache is reclaimable and left out."""
    shm_bytes: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    cpu_pressure_seconds: float | None = None
    """Time that at least one task waited for a CPU (PSI, some); likewise below."""
    io_pressure_seconds: float | None = None
    memory_pressure_seconds: float | None = None
    steal_seconds: float | None = None
    """Over all CPUs of the machine."""
    device_utilisation: float | None = None
    """Share of time in which the trainer's device ran a kernel, 0 to 1, since the last reading."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage of one process of the trainer's container at one moment."""

    pid: int
    stamp_seconds: float
    worker: int | None = None
    """None for the training process itself."""
    cpu_seconds: float | None = None
    """User and system time of all its threads."""
    run_delay_seconds: float | None = None
    """Of the training process: time that its iterating thread was runnable but not running, throttling
    included. None of a worker: each of its loads states its own."""
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    """Read at long intervals."""
    uss_bytes: int | None = None
    read_chars: int | None = None
    """Bytes that read calls returned."""
    read_bytes: int | None = None
    """Bytes that came from storage."""
    boot_cpu_seconds: float | None = None
    """Of a worker: CPU time before its first load."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The training process that reports."""

    client_id: str
    job: str = ""
    namespace: str = ""
    pod: str = ""
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    trainer_pid: int = 0
    pid_namespace: str = ""
    """Of the training process: ``pid:[4026531836]``; empty where it cannot be read."""
